"""TensorRT engines against a strict fake: what is built, run and timed, and every way in which TensorRT says no."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import AutoformerError, CheckpointError, DataError, ExportError, MeasurementError, MissingPackageError
from autoformer.export.engines.builder import EngineBuilder, EngineConfig
from autoformer.export.engines.cuda_runtime import Cuda
from autoformer.export.engines.engine import Engine
from autoformer.export.engines.tensorrt_versions import tensorrt_missing
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.manifest import Manifest
from autoformer.export.predictor import open_predictor
from tests.support.engines import EXPECTED, IMAGES, VERSIONS, WEIGHT, Install, write_graph
from tests.support.exporting import write_export
from tests.support.fake_tensorrt import MARK


@pytest.mark.parametrize("version", VERSIONS)
def test_engine_is_built_and_gives_the_logits_of_the_graph(version: str, graph: Path, install: Install) -> None:
    cuda = install(version)
    plan = graph.with_name("model.plan")
    config = EngineConfig(optimization_level=2, workspace_mib=64, profiles=((1, 2, 5),))
    built = EngineBuilder(config).build(graph, plan)
    assert (built.config, built.here["tensorrt"]) == (config, version)
    header = json.loads(plan.read_bytes()[len(MARK) :].split(b"\n")[0])
    assert header["flags"] == (
        ["PROFILE_SHARING_0806"] if version.startswith("8") else []
    )  # 11's own flag of strong typing is the network's; TF32 is taken away
    assert (header["level"], header["pools"]) == (2, {"WORKSPACE": 64 << 20})
    assert header["profiles"] == [["images", [1, 1, 2, 2], [2, 1, 2, 2], [5, 1, 2, 2]]]
    with Engine.load(plan, sha256=built.sha256) as engine:
        assert (engine.min_batch, engine.max_batch) == (1, 5)
        for count in (1, 5, 5, 2):  # up, the same, and down again
            np.testing.assert_allclose(engine(IMAGES[:count]), EXPECTED[:count], rtol=1e-5)
        engine.prepare(3)
        engine.infer()
        assert engine.infer_timed() == 0.25  # the fake's clock moves so much between two events
        assert len(cuda.memory) == 2, "an engine holds one input and one output"


def test_tf32_is_left_on_only_when_asked_for(graph: Path, install: Install) -> None:
    install()
    plan = graph.with_name("model.plan")
    EngineBuilder(EngineConfig(precision="tf32")).build(graph, plan)
    assert b'"flags": ["TF32"]' in plan.read_bytes()
    with pytest.raises(ExportError, match="fp32, tf32, fp16, int8, got 'int3'"):
        EngineConfig(precision="int3")
    with pytest.raises(ExportError, match="must rise"):
        EngineConfig(profiles=((4, 2, 8),))


def test_graph_of_fixed_batch_keeps_it(tmp_path: Path, install: Install) -> None:
    install()
    write_graph(tmp_path / "four.onnx", batch=4)
    built = EngineBuilder().build(tmp_path / "four.onnx", tmp_path / "four.plan")
    assert built.config.profiles == ((4, 4, 4),)
    with Engine.load(built.path, sha256=built.sha256) as engine:
        np.testing.assert_allclose(engine(IMAGES[:4]), EXPECTED[:4], rtol=1e-5)
        with pytest.raises(MeasurementError, match="takes 4 to 4 images at once, asked for 2"):
            engine.prepare(2)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("parse", r"cannot read .*node (node_gelu|Flatten_0): Unsupported operator: Gelu"),
        ("profile", "refuses batches"),
        ("build", "cannot build an engine .*no implementation for node_MatMul_28"),
    ],
)
def test_failed_build_says_why_and_writes_nothing(version: str, fail: str, message: str, graph: Path, install: Install) -> None:
    install(version, fail=fail)
    with pytest.raises(ExportError, match=message) as caught:
        EngineBuilder().build(graph, graph.with_name("model.plan"))
    assert "\n" not in str(caught.value)
    assert [path.name for path in graph.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("fail", "error", "message"),
    [
        ("deserialize", CheckpointError, "cannot load .*built for another device; build it again"),
        ("context", MeasurementError, "no memory to run"),
        ("shape", MeasurementError, "refuses input shape"),
        ("run", MeasurementError, "failed while running"),
    ],
)
def test_failed_run_says_why_and_leaves_nothing_on_the_device(
    fail: str, error: type[AutoformerError], message: str, graph: Path, install: Install
) -> None:
    install()
    built = EngineBuilder().build(graph, graph.with_name("model.plan"))
    install(fail=fail)
    with pytest.raises(error, match=message), Engine.load(built.path, sha256=built.sha256) as engine:
        engine(IMAGES[:1])


def test_engine_refuses_what_it_was_not_built_for(graph: Path, install: Install) -> None:
    install()
    built = EngineBuilder(EngineConfig(profiles=((2, 2, 4),))).build(graph, graph.with_name("model.plan"))
    with Engine.load(built.path, sha256=built.sha256) as engine:
        with pytest.raises(MeasurementError, match="not prepared"):
            engine.infer()
        for count in (1, 5):
            with pytest.raises(MeasurementError, match=f"takes 2 to 4 images at once, asked for {count}"):
                engine(IMAGES[:count])
        with pytest.raises(DataError, match=r"takes float32 images \[batch, 1, 2, 2\], got float64"):
            engine(IMAGES.astype(np.float64))
        with pytest.raises(DataError, match=r"got float32 \[2, 1, 1, 4\]"):
            engine(IMAGES[:2].reshape(2, 1, 1, 4))


class Product(nn.Module):
    """The network of the graph."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(WEIGHT.copy()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight


def export(out: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    def from_network(network: nn.Module, path: Path, **options: object) -> OnnxGraph:
        write_graph(path)
        return OnnxGraph.open(path)

    monkeypatch.setattr("autoformer.export.artefacts.OnnxGraph.from_network", from_network)
    preprocessing = Preprocessing(image_size=2, in_chans=1, mean=(0.0,), std=(1.0,))
    return write_export(Product(), out, images=IMAGES, preprocessing=preprocessing, classes=("a", "b", "c"), precisions=("fp32",))


def test_folder_with_an_engine_predicts_through_it(tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    engine = export(tmp_path / "out", monkeypatch).artefacts[1]
    assert (engine.format, engine.status, engine.file, engine.made["tensorrt"]) == (
        "tensorrt", "exported", "model.fp32.plan", "10.3.0",
    )  # fmt: skip
    assert engine.parity is not None
    assert engine.parity.batches == (1, 2, 5)
    with open_predictor(tmp_path / "out" / "model.fp32.plan") as predictor:
        assert (predictor.kind, predictor.precision, predictor.classes) == ("tensorrt", "fp32", ("a", "b", "c"))
        many = np.concatenate([IMAGES, IMAGES, IMAGES[:3]])  # more than one call takes
        expected = np.concatenate([EXPECTED, EXPECTED, EXPECTED[:3]])
        np.testing.assert_allclose(predictor(many), expected, rtol=1e-5)


@pytest.mark.parametrize("fail", ["parse", "build", "deserialize", "run"])
def test_engine_that_cannot_be_made_leaves_the_onnx_file(
    fail: str, tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(fail=fail)
    manifest = export(tmp_path / "out", monkeypatch)
    assert [artefact.status for artefact in manifest.artefacts] == ["exported", "rejected"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["class_map.txt", "manifest.json", "model.fp32.onnx"]


def test_plans_without_a_known_digest_are_not_loaded(tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    plan = tmp_path / "out" / "model.fp32.plan"
    with pytest.raises(CheckpointError, match="does not exist"):
        Engine.load(plan)
    export(plan.parent, monkeypatch)
    stranger = plan.with_name("other.plan")
    stranger.write_bytes(plan.read_bytes())
    with pytest.raises(CheckpointError, match="not in the manifest"):
        Engine.load(stranger)
    install("10.16.1")
    with pytest.raises(CheckpointError, match=r"built by TensorRT 10\.3\.0, here is 10\.16\.1; build it again"):
        Engine.load(plan)
    install()
    plan.write_bytes(plan.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="other SHA-256"):
        Engine.load(plan)
    (plan.parent / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no manifest\.json beside it; a plan is code"):
        Engine.load(plan)


def test_what_is_missing_is_named(install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install()
    assert tensorrt_missing() is None
    install(devices=0)
    assert tensorrt_missing() == "there is no CUDA device; TensorRT needs an NVIDIA GPU and its driver"
    install(devices=-1)
    assert tensorrt_missing() == (
        "CUDA could not count devices: cudaErrorInsufficientDriver (35); it takes an NVIDIA GPU and its driver, "
        "one that is as new as this CUDA"
    )
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    assert "is not NVIDIA's TensorRT" in str(tensorrt_missing())

    broken = tmp_path / "tensorrt.py"
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(tmp_path)
    broken.write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    assert "libraries cannot be loaded (libnvinfer.so.10: cannot open" in str(tensorrt_missing())
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    broken.write_text("import os\nos.nothing_of_the_kind  # a file that happens to have the name\n")
    assert "cannot be loaded (module 'os' has no attribute 'nothing_of_the_kind')" in str(tensorrt_missing())


def test_absent_package_says_where_it_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hidden:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "tensorrt":
                raise ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt")

    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    missing = tensorrt_missing()
    assert missing is not None
    assert missing.startswith("TensorRT is not installed")
    assert "JetPack" in missing


def test_cuda_errors_are_named(install: Install) -> None:
    install()
    with pytest.raises(MeasurementError, match="could not allocate 2147483648 bytes: cudaErrorMemoryAllocation"):
        Cuda().allocate(1 << 31)


def test_absent_cuda_bindings_name_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=r"autoformer-toolchain\[tensorrt\]"):
        Cuda()


def test_board_modules_import_the_standard_library_only() -> None:
    modules = (
        "graphs.model_metadata", "graphs.onnx_model", "parity", "manifest", "engines.cuda_runtime", "engines.tensorrt_versions",
        "engines.build_progress", "engines.timing_cache", "graphs.onnx_file", "engines.engine", "engines.builder",
        "engines.refit", "engines.layers", "predictor",
    )  # fmt: skip
    heavy = ("torch", "numpy", "timm", "onnx", "onnxruntime", "pydantic", "PIL", "safetensors", "cuda", "tensorrt")
    program = (
        f"import sys; [__import__('autoformer.export.' + name) for name in {modules}]; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.tensorrt
def test_real_engine_gives_the_logits_of_the_graph(graph: Path) -> None:
    built = EngineBuilder().build(graph, graph.with_name("model.plan"))
    with Engine.load(built.path, sha256=built.sha256) as engine:
        np.testing.assert_allclose(engine(IMAGES), EXPECTED, atol=1e-4)
        engine.prepare(1)
        assert engine.infer_timed() > 0
