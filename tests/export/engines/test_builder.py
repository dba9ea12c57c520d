"""Building engines: what is asked of each version of TensorRT, what is recorded, and how a build is stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autoformer.errors import CheckpointError, ExportError, MeasurementError
from autoformer.export.engines.builder import EngineBuilder, EngineConfig
from autoformer.export.engines.engine import Engine
from autoformer.export.manifest import sha256_of
from autoformer.files import write_json
from tests.support.engines import EXPECTED, IMAGES, VERSIONS, WEIGHT, Install, write_graph
from tests.support.fake_tensorrt import MARK

SHARED_PROFILES = "PROFILE_SHARING_0806"  # 8.6 alone has to be told


def header(plan: Path) -> dict[str, Any]:
    """What the stand-in was asked for when it built `plan`."""
    found: dict[str, Any] = json.loads(plan.read_bytes()[len(MARK) :].split(b"\n")[0])
    return found


def half_graph(path: Path) -> Path:
    """A product in half precision and a layer normalisation in float32 after it."""
    nodes = (
        helper.make_node("Flatten", ["images"], ["x"], name="flatten"),
        helper.make_node("Cast", ["x"], ["h"], name="cast", to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "half"], ["p"], name="product"),
        helper.make_node("Cast", ["p"], ["f"], name="back", to=TensorProto.FLOAT),
        helper.make_node("LayerNormalization", ["f", "scale"], ["n"], name="norm"),
        helper.make_node("Mul", ["n", "scale"], ["logits"], name="scaled"),
    )
    stored = (
        numpy_helper.from_array(WEIGHT.astype(np.float16), "half"),
        numpy_helper.from_array(np.ones(3, np.float32), "scale"),
    )
    return write_graph(path, nodes=nodes, stored=stored)


def int8_graph(path: Path) -> Path:
    """The product, of quantised values."""
    nodes = (
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
        helper.make_node("Flatten", ["d"], ["x"], name="flatten"),
        helper.make_node("MatMul", ["x", "w"], ["logits"], name="product"),
    )
    scale = numpy_helper.from_array(np.array(0.05, np.float32), "s")
    return write_graph(path, nodes=nodes, stored=(scale, numpy_helper.from_array(np.array(0, np.int8), "z")))


def test_settings_survive_json_and_hold_no_enum_numbers() -> None:
    config = EngineConfig(precision="fp16", profiles=((1, 1, 1), (2, 8, 16)), timing_cache=Path("cache"), refittable=True)
    values = json.loads(json.dumps(config.to_dict()))
    assert EngineConfig.from_dict(values) == replace(config, timing_cache=None)  # a folder of this machine, and not recorded
    assert values == {
        "precision": "fp16", "profiles": [[1, 1, 1], [2, 8, 16]], "workspace_mib": None, "optimization_level": 3,
        "refittable": True, "detailed": False, "format": "tensorrt", "gpus": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"presicion": "fp16"}, "unknown keys .'presicion'.; known are format, gpus, precision, profiles"),
        ({"profiles": [[1, 2]]}, "has 2 items, expected 3"),
        ({"profiles": [[1, 3, 2]]}, "must rise"),
        ({"profiles": [["one", 2, 3]]}, "is 'one', expected a whole number"),
        ({"profiles": []}, "at least one profile"),
        ({"optimization_level": 6}, "0 to 5, got 6"),
        ({"optimization_level": 0, "timing_cache": "cache"}, "0 ignores timing caches"),
        ({"workspace_mib": 0}, "must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises((CheckpointError, ExportError), match=message):
        EngineConfig.from_dict(values)


@pytest.mark.parametrize("version", VERSIONS)
def test_record_says_with_what_and_for_what_it_was_built(version: str, graph: Path, install: Install) -> None:
    install(version, gpu="Orin (nvgpu)", capability=(8, 7))
    built = EngineBuilder(EngineConfig(timing_cache=graph.parent / "cache")).build(graph, graph.with_name("model.plan"))
    made = json.loads(json.dumps(built.made()))
    assert made.pop("seconds") >= 0
    assert made.pop("date") == date.today().isoformat()
    assert made == {
        "tensorrt": version,
        "gpu": "Orin (nvgpu)",
        "compute_capability": "8.7",
        "driver": "12.8",
        "cuda": "12.6",
        "graph_sha256": sha256_of(graph),
        "config": {
            "precision": "fp32", "profiles": [[1, 1, 8]], "workspace_mib": None, "optimization_level": 3, "refittable": False,
            "detailed": False, "format": "tensorrt", "gpus": [],
        },
        "timing_cache": {
            "file": f"timing_sm8.7_orin-nvgpu_trt{version}_cuda12.6.cache",
            "before": None,
            "after": sha256_of(graph.parent / "cache" / f"timing_sm8.7_orin-nvgpu_trt{version}_cuda12.6.cache"),
        },
        "warnings": ["fake warning"],
    }  # fmt: skip


def test_half_precision_is_the_files_and_on_8_6_the_flags_that_hold_to_it(tmp_path: Path, install: Install) -> None:
    graph, plan = half_graph(tmp_path / "half.onnx"), tmp_path / "half.plan"
    for version in ("10.3.0", "11.4.0"):
        install(version)
        EngineBuilder(EngineConfig(precision="fp16")).build(graph, plan)
        assert (header(plan)["flags"], header(plan)["float32"]) == (["TF32"], [])
    install("8.6.1")
    EngineBuilder(EngineConfig(precision="fp16")).build(graph, plan)
    assert header(plan)["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS", SHARED_PROFILES, "TF32"]
    # The normalisation and what is computed from it; moving values and the product in half precision are left alone.
    assert header(plan)["float32"] == ["norm_4", "scaled"]
    assert EngineBuilder(EngineConfig(precision="fp16")).build(graph, plan).config.precision == "fp16"


@pytest.mark.parametrize(("version", "flags"), [("10.3.0", ["TF32"]), ("8.6.1", ["INT8", SHARED_PROFILES, "TF32"])])
def test_int8_is_the_files_too(version: str, flags: list[str], tmp_path: Path, install: Install) -> None:
    install(version)
    graph, plan = int8_graph(tmp_path / "int8.onnx"), tmp_path / "int8.plan"
    EngineBuilder(EngineConfig(precision="int8")).build(graph, plan)
    assert header(plan)["flags"] == flags
    assert header(plan)["float32"] == [], "held layers could not become int8"


@pytest.mark.parametrize("version", VERSIONS)
def test_engine_of_another_precision_than_the_file_is_refused(version: str, tmp_path: Path, install: Install) -> None:
    install(version)
    files = {
        "fp32": write_graph(tmp_path / "a.onnx"),
        "fp16": half_graph(tmp_path / "b.onnx"),
        "int8": int8_graph(tmp_path / "c.onnx"),
    }
    for asked in ("fp32", "tf32", "fp16", "int8"):
        for kind, graph in files.items():
            if kind != asked.replace("tf32", "fp32"):
                with pytest.raises(ExportError, match=f"computes in {kind}, asked for an engine of {asked}"):
                    EngineBuilder(EngineConfig(precision=asked)).build(graph, tmp_path / "x.plan")


@pytest.mark.parametrize("version", VERSIONS)
def test_flags_are_set_by_name(version: str, graph: Path, install: Install) -> None:
    install(version)
    plan = graph.with_name("model.plan")
    EngineBuilder(EngineConfig(refittable=True, detailed=True, precision="tf32")).build(graph, plan)
    shared = [SHARED_PROFILES] if version.startswith("8") else []
    assert (header(plan)["flags"], header(plan)["detailed"]) == (sorted(["REFIT", "TF32", *shared]), True)


@pytest.mark.parametrize(("version", "operator"), [("8.6.1", ""), ("10.3.0", "operator Gelu of ")])
def test_parser_errors_name_the_torch_module(version: str, operator: str, tmp_path: Path, install: Install) -> None:
    nodes = (
        helper.make_node("Identity", ["images"], ["i"], name="node_gelu"),
        helper.make_node("Flatten", ["i"], ["x"], name="flatten"),
        helper.make_node("MatMul", ["x", "w"], ["logits"], name="product"),
    )
    graph = write_graph(tmp_path / "model.onnx", nodes=nodes)
    write_json({"node_gelu": "blocks.0.mlp.act"}, tmp_path / "model.scopes.json")
    install(version, fail="parse")
    with pytest.raises(ExportError) as caught:
        EngineBuilder().build(graph, tmp_path / "model.plan")
    assert str(caught.value) == (
        f"TensorRT {version} cannot read {graph}: {operator}node node_gelu (module blocks.0.mlp.act): Unsupported operator: Gelu"
    )


def test_unusable_gpu_and_files_that_are_none_are_named(graph: Path, install: Install) -> None:
    install(fail="builder")
    with pytest.raises(MeasurementError, match="gives no Builder: CUDA initialization failure with error: 35; is the GPU"):
        EngineBuilder().build(graph, graph.with_name("model.plan"))
    install(devices=0)
    with pytest.raises(MeasurementError, match="no CUDA device"):
        EngineBuilder().build(graph, graph.with_name("model.plan"))


def test_progress_is_told_where_tensorrt_tells_it(graph: Path, install: Install) -> None:
    told: list[tuple[str, int, int]] = []

    def tell(phase: str, done: int, total: int) -> None:
        told.append((phase, done, total))

    install("8.6.1")
    EngineBuilder().build(graph, graph.with_name("model.plan"), on_progress=tell)
    assert told == []
    install()
    EngineBuilder().build(graph, graph.with_name("model.plan"), on_progress=tell)
    assert told == [
        ("Building", 0, 2), ("Timing", 0, 3), ("Timing", 1, 3), ("Timing", 2, 3), ("Timing", 3, 3), ("Timing", 3, 3),
        ("Building", 2, 2),
    ]  # fmt: skip


def test_a_signal_stops_a_build_and_keeps_the_timings(graph: Path, install: Install) -> None:
    install()
    sent = threading.Event()

    def send() -> None:  # on TensorRT's thread, while the main thread is in its library
        if not sent.is_set():
            sent.set()
            os.kill(os.getpid(), signal.SIGINT)

    sys.modules["tensorrt"]._world.during_build = send
    config = EngineConfig(timing_cache=graph.parent / "cache")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background may have it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            EngineBuilder(config).build(graph, graph.with_name("model.plan"))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.set_wakeup_fd(-1) == -1
    assert not graph.with_name("model.plan").exists()
    assert len(list((graph.parent / "cache").glob("timing_*.cache"))) == 1
    built = EngineBuilder(config).build(graph, graph.with_name("model.plan"))
    assert built.timing_cache is not None
    assert built.timing_cache["before"] is not None


def test_an_error_of_the_caller_stops_a_build_and_is_raised(graph: Path, install: Install) -> None:
    install()

    def tell(phase: str, done: int, total: int) -> None:
        raise BrokenPipeError("nobody reads the progress")

    with pytest.raises(BrokenPipeError):
        EngineBuilder().build(graph, graph.with_name("model.plan"), on_progress=tell)
    assert [path.name for path in graph.parent.iterdir()] == ["model.onnx"]


def test_a_build_outside_the_main_thread_works(graph: Path, install: Install) -> None:
    install()
    found: list[NDArray[np.float32]] = []

    def work() -> None:
        built = EngineBuilder().build(graph, graph.with_name("model.plan"))
        with Engine.load(built.path, sha256=built.sha256) as engine:
            found.append(engine(IMAGES))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_allclose(found[0], EXPECTED, rtol=1e-5)
