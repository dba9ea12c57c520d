"""Our code against NVIDIA's own Python bindings, 8.6 to 11.4: every name, method, keyword and enum member that we use is there.

The bindings are downloaded by `make tensorrt-bindings` and load empty libraries, so they work without a GPU; continuous
integration fails without them.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoformer.export.engines.builder import INPUT_TYPES
from autoformer.export.engines.refit import TYPE_NAMES
from autoformer.export.engines.tensorrt_versions import COMPUTING_LAYERS, PRECISION_FLAGS, SHARED_PROFILES
from tests.support import tensorrt_bindings
from tests.support.bundles import python310
from tests.support.fake_cuda import FakeCuda
from tests.support.real_tensorrt import needs_real_tensorrt
from tests.support.source_tree import ROOT, files
from tests.support.strict_module import check_call
from tests.support.tensorrt_bindings import LISTED, LISTING, REAL, RTX, WHEELS, listing_of

FOLDER = Path(os.environ.get("AUTOFORMER_TENSORRT_BINDINGS") or tensorrt_bindings.FOLDER)
# Each module that touches TensorRT, and what it calls the objects that TensorRT gives it.
MODULES: dict[str, dict[str, tuple[str, ...]]] = {
    "export/engines/build_progress.py": {},
    "export/engines/engine.py": {
        "_runtime": ("Runtime",), "_engine": ("ICudaEngine",), "_context": ("IExecutionContext",),
        "context": ("IExecutionContext",), "inspector": ("EngineInspector",),
    },
    "export/engines/builder.py": {
        "builder": ("Builder",), "network": ("INetworkDefinition",), "config": ("IBuilderConfig",), "parser": ("OnnxParser",),
        "profile": ("IOptimizationProfile",), "entry": ("ITensor",),
    },
    "export/engines/plans.py": {"runtime": ("Runtime",)},
    "export/engines/refit.py": {
        "engine": ("ICudaEngine",), "refitter": ("Refitter",), "parser": ("OnnxParserRefitter",), "config":
        ("ISerializationConfig",), "expected": ("Weights",),
    },
    "export/engines/tensorrt_versions.py": {
        "config": ("IBuilderConfig",), "network": ("INetworkDefinition",), "layer": ("ILayer",), "parser_error": ("ParserError",),
        "parser": ("OnnxParser", "OnnxParserRefitter"), "settings": ("IRuntimeConfig",), "engine": ("ICudaEngine",),
    },
    "export/engines/timing_cache.py": {"config": ("IBuilderConfig",), "cache": ("ITimingCache",), "others": ("ITimingCache",)},
}  # fmt: skip
# What our code asks about before it uses it, by the version that lacks it. Whether it asks is shown by the tests with the fake.
FUNCTIONS = ("init_libnvinfer_plugins",)  # that we call where they are; they have no listing
NO_SETTINGS = (
    "ICudaEngine.create_execution_context: ICudaEngine.create_execution_context(): incompatible function arguments [] "
    "{'runtime_config': None}, known are "
)
RTX_ONLY = {
    "ComputeCapability", "DynamicShapesKernelSpecializationStrategy", "DynamicShapesKernelSpecializationStrategy.EAGER",
    "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
}  # fmt: skip
ABSENT = {
    "8": {
        "IProgressMonitor", "IBuilderConfig.progress_monitor", "OnnxParserRefitter", "OnnxParserRefitter.refit_from_bytes",
        "OnnxParserRefitter.num_errors", "OnnxParserRefitter.get_error", "Refitter.get_weights_prototype", "SerializationFlag",
        "ICudaEngine.create_serialization_config", "ICudaEngine.serialize_with_config", "ISerializationConfig.set_flag",
        "ParserError.node_name", "ParserError.node_operator", "SerializationFlag.INCLUDE_REFIT",
        "ICudaEngine.create_runtime_config",
        f"{NO_SETTINGS}[[]]",
        *RTX_ONLY,
    },
    "10.3": {
        "SerializationFlag.INCLUDE_REFIT", "ICudaEngine.create_runtime_config", f"{NO_SETTINGS}[['strategy=']]", *RTX_ONLY,
    },
    "10.16": RTX_ONLY,
    "11": {"ILayer.precision", "ILayer.set_output_type", *RTX_ONLY},
    RTX: {"ILayer.precision", "ILayer.set_output_type"},
}  # fmt: skip


def uses(module: str) -> Iterator[tuple[str, ast.Call | None]]:
    """What a module uses, as "Name", "Enum.MEMBER" or "Class.attribute", and the call where it is called."""
    tree, objects = ast.parse((ROOT / module).read_text()), MODULES[module]
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "created":
            assert isinstance(node.args[1], ast.Constant)
            yield str(node.args[1].value), ast.Call(node.func, node.args[2:], node.keywords)
        if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
            continue
        words = ast.unparse(node).removeprefix("self._").split(".")
        if words == ["trt"]:
            continue
        if words[0] == "trt":
            yield ".".join(words[1:]), calls.get(id(node)) if len(words) == 2 else None
            continue
        owner = ast.unparse(node.value).replace("self._", "_")
        for kind in objects.get(owner, ()):
            yield f"{kind}.{node.attr}", calls.get(id(node))


def objections(used: str, call: ast.Call | None, listing: dict[str, Any], names: list[str]) -> Iterator[str]:
    """Why `used` is no good with this version."""
    kind, _, member = used.partition(".")
    if kind not in names:
        yield used
        return
    if (nested := f"{kind}.{member.split('.')[0]}") in listing:
        kind, member = nested, member.partition(".")[2]
    facts = listing.get(kind)
    if kind in FUNCTIONS:
        return
    assert facts is not None, f"{kind} is not among the classes that are listed; add it in tests/support/tensorrt_bindings.py"
    methods = facts.get("methods", {})
    if member and member not in facts.get("enum", {}) and member not in methods and member not in facts.get("properties", {}):
        yield used
        return
    if call is not None and not any(isinstance(argument, ast.Starred) for argument in call.args):
        overloads = methods.get(member or "__init__", [])
        try:
            check_call(used, overloads, call.args, {entry.arg or "": None for entry in call.keywords})
        except TypeError as error:
            yield f"{used}: {error}"


@pytest.fixture(scope="module", params=sorted(WHEELS))
def version(request: pytest.FixtureRequest) -> str:
    return bindings_of(str(request.param))


@pytest.fixture(scope="module", params=[*sorted(WHEELS), RTX])
def version_of_either(request: pytest.FixtureRequest) -> str:
    if request.param == RTX:
        needs_real_tensorrt()
        return RTX
    return bindings_of(str(request.param))


def bindings_of(found: str) -> str:
    if not (FOLDER / found / "tensorrt").is_dir():
        missing = f"NVIDIA's bindings of TensorRT {found} are not in {FOLDER}; `make tensorrt-bindings` downloads them"
        (pytest.fail if os.environ.get("AUTOFORMER_NEED_TENSORRT_BINDINGS") else pytest.skip)(missing)
    return found


def test_our_modules_use_what_the_bindings_have(version_of_either: str) -> None:
    names, listing = listing_of(version_of_either, FOLDER)
    absent = next(words for prefix, words in ABSENT.items() if version_of_either.startswith(prefix))
    found = {text for module in MODULES for used, call in uses(module) for text in objections(used, call, listing, names)}
    assert found == absent


def test_members_that_we_take_by_name_are_there(version_of_either: str) -> None:
    version = version_of_either
    _, listing = listing_of(version, FOLDER)
    members = {name: set(facts.get("enum", {})) for name, facts in listing.items()}
    assert set(COMPUTING_LAYERS) <= members["LayerType"]
    assert set(INPUT_TYPES) | set(TYPE_NAMES.values()) <= members["DataType"]
    flags = {flag for flags in PRECISION_FLAGS.values() for flag in flags}
    if version.startswith("8"):  # later versions are never asked for them
        assert flags <= members["BuilderFlag"]
        assert SHARED_PROFILES in members["PreviewFeature"]


def test_what_we_read_of_our_modules_is_what_they_use() -> None:
    used = {name for module in MODULES for name, _ in uses(module)}
    assert len(used) > 70
    assert {
        "Builder", "Builder.build_serialized_network", "BuilderFlag.REFIT", "ILogger.Severity.ERROR",
        "Refitter.refit_cuda_engine", "IExecutionContext.set_optimization_profile_async", "ITimingCache.combine",
        "ProfilingVerbosity.DETAILED",
    } <= used  # fmt: skip
    others = files().values()
    silent = {str(path.relative_to(ROOT)) for path in others if re.search(r"\btrt\.|import tensorrt\b", path.read_text())}
    assert silent <= set(MODULES), "a module that touches TensorRT and is not looked at"


@pytest.mark.parametrize("version", ["11.4.0.106"])
def test_a_name_that_is_not_there_is_found(version: str) -> None:
    listing = json.loads(LISTING.read_text())[version]
    wrong = {
        "BuilderFlag.FP16": "BuilderFlag.FP16", "IBuilderConfig.max_workspace_size": "IBuilderConfig.max_workspace_size",
        "CaffeParser": "CaffeParser",
    }  # fmt: skip
    for used, expected in wrong.items():
        assert list(objections(used, None, listing, sorted(listing))) == [expected]
    call = ast.parse("cache.combine(other, ignore_mismatches=False)", mode="eval").body
    assert isinstance(call, ast.Call)
    (said,) = objections("ITimingCache.combine", call, listing, sorted(listing))
    assert "incompatible function arguments" in said


def test_the_listing_that_the_fake_is_made_from_is_that_of_the_bindings(version_of_either: str) -> None:
    version = version_of_either
    if version in (RTX, *LISTED):
        assert listing_of(version, FOLDER)[1] == json.loads(LISTING.read_text())[version]
    else:
        assert version == "10.16.1.11", "between the listed ones"


def test_our_logger_and_progress_monitor_are_taken_for_nvidias(version: str) -> None:
    program = """
import tensorrt
from autoformer.errors import MeasurementError
from autoformer.export.engines.build_progress import StopRequest, progress_monitor
from autoformer.export.engines.tensorrt_versions import collecting_logger, created, import_tensorrt, network_flags
trt = import_tensorrt()
logger = collecting_logger(trt)
assert isinstance(logger, trt.ILogger)
logger.log(trt.ILogger.Severity.ERROR, "two  words")
logger.log(trt.ILogger.Severity.WARNING, "careful")
logger.log(trt.ILogger.Severity.INFO, "talk")
assert (list(logger.warnings), logger.take(), list(logger.warnings)) == (["careful"], "two words", [])
told = []
if hasattr(trt, "IProgressMonitor"):
    request = StopRequest()
    monitor = progress_monitor(trt, request, lambda *words: told.append(words))
    assert isinstance(monitor, trt.IProgressMonitor)
    monitor.phase_start("Timing", None, 2)
    assert monitor.step_complete("Timing", 0)
    request.received = 2
    assert not monitor.step_complete("Timing", 1)
try:
    created(trt, "Builder", logger)
except MeasurementError as error:
    print(trt.__version__, network_flags(trt), told, error)
"""
    flags = {"8": 1, "1": 2, "11": 1}["11" if version.startswith("11") else version[0]]
    told = [] if version.startswith("8") else [("Timing", 0, 2), ("Timing", 1, 2), ("Timing", 2, 2)]
    said = f"TensorRT {version} gives no Builder: TensorRT gave no reason; is the GPU usable?"
    assert tensorrt_bindings.run_with(version, FOLDER, "-c", program) == f"{version} {flags} {told} {said}\n"


@pytest.mark.slow
def test_real_libraries_of_8_6_offer_what_the_listing_says_and_name_a_missing_gpu() -> None:
    python = python310()
    if python is None or not (FOLDER / REAL / "lib").is_dir():
        pytest.skip(f"needs Python 3.10 and the libraries: python -m tests.support.tensorrt_bindings {FOLDER} --real-8.6")
    program = """
import json, tensorrt
import tests.support.tensorrt_bindings as bindings
from autoformer.errors import MeasurementError
from autoformer.export.engines.tensorrt_versions import collecting_logger, created
found = bindings.listing(tensorrt)
try:
    created(tensorrt, "Builder", collecting_logger(tensorrt))
    said = "a builder"
except MeasurementError as error:
    said = str(error)
print(json.dumps([found, said]))
"""
    found, said = json.loads(tensorrt_bindings.run_with(REAL, FOLDER, "-c", program, python=python))
    names = sorted(found)
    objected = {text for module in MODULES for used, call in uses(module) for text in objections(used, call, found, names)}
    assert objected == ABSENT["8"]
    assert said == "a builder" or "CUDA initialization failure with error" in said


def test_weights_of_the_bindings_take_our_arrays(version: str, graph: Path) -> None:
    program = """
import sys
from pathlib import Path
import numpy as np
import tensorrt as trt
from autoformer.export.graphs.onnx_file import OnnxFile
given = trt.Weights(OnnxFile.read(Path(sys.argv[1])).weights["w"].values().copy())
print(given.dtype, given.size, given.dtype == trt.DataType.FLOAT)
"""
    found = tensorrt_bindings.run_with(version, FOLDER, "-c", program, str(graph))
    assert found == "DataType.FLOAT 12 True\n"


def test_cuda_functions_and_their_arguments_are_nvidias() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="NVIDIA's cuda-bindings are not installed here")
    tree, fake = ast.parse((ROOT / "export/engines/cuda_runtime.py").read_text()), FakeCuda()
    called = {
        node.func.attr: len(node.args)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("self._runtime.cuda")
        if isinstance(node.func, ast.Attribute)
    }
    assert len(called) > 20
    for name, given in called.items():
        signature = getattr(runtime, name).__doc__.strip().splitlines()[0]
        inside = signature[signature.index("(") + 1 : signature.rindex(")")]
        assert given == (inside.count(",") + 1 if inside else 0), signature
        code = getattr(fake, name).__func__.__code__
        assert code.co_argcount - 1 == given, f"the fake's {name} takes others"
    for member in ("cudaMemcpyKind.cudaMemcpyHostToDevice", "cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal"):
        kind, name = member.split(".")
        assert int(getattr(getattr(runtime, kind), name)) == int(getattr(getattr(fake, kind), name))
    assert runtime.cudaGetErrorName(runtime.cudaError_t(2))[1] == b"cudaErrorMemoryAllocation"
