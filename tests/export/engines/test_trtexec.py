"""`trtexec`: found, asked, its engines built and timed, under the conditions that were asked for in every version."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoformer.errors import CheckpointError, ExportError, MeasurementError, MissingPackageError
from autoformer.export.engines import trtexec as trtexec_module
from autoformer.export.engines.builder import PRECISIONS, EngineConfig
from autoformer.export.engines.trtexec import PlanInput, Timing, Trtexec
from autoformer.export.engines.trtexec_output import check_summary, read_log, read_times, read_version
from autoformer.export.manifest import sha256_of
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.trtexec_runs import trtexec_measurement
from tests.support.scripted_trtexec import calls, write_trtexec

VERSIONS = ("8.6.2", "10.3.0", "11.0.0")
INPUT = PlanInput("image", (3, 32, 32))
TIMES = (2.0, 2.5, 2.0, 3.0, 2.25)

# NVIDIA/TensorRT issue 4177, a run of 10.x, shortened
PRINTED = """\
[10/03/2024-10:47:59] [I] Average on 1 runs - GPU latency: 7.14139 ms - Host latency: 7.16092 ms (enqueue 7.86694 ms)
[10/03/2024-10:47:59] [I] === Performance summary ===
[10/03/2024-10:47:59] [I] Throughput: 130.298 qps
[10/03/2024-10:47:59] [I] Latency: min = 5.38672 ms, max = 13.3664 ms, mean = 7.60628 ms, median = 7.16092 ms
[10/03/2024-10:47:59] [I] GPU Compute Time: min = 5.34595 ms, max = 13.3388 ms, mean = 7.58404 ms, median = 7.14139 ms
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "model.onnx")


def write_graph(path: Path, precision: str = "fp32") -> Path:
    """A normalisation in fp32 and a product in `precision`."""
    weight = np.ones((32, 2), np.float16 if precision == "fp16" else np.float32)
    scale = numpy_helper.from_array(np.ones(32, np.float32), "scale")
    nodes = [helper.make_node("LayerNormalization", ["image", "scale"], ["x"], name="norm")]
    weights = [scale, numpy_helper.from_array(weight, "w")]
    if precision == "int8":
        weights += [
            numpy_helper.from_array(np.array(0.1, np.float32), "step"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"], name="quantise"),
            helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["y"], name="dequantise"),
        ]
    else:
        kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT
        nodes.append(helper.make_node("Cast", ["x"], ["y"], name="cast", to=kind))
    nodes.append(helper.make_node("MatMul", ["y", "w"], ["z"], name="product"))
    nodes.append(helper.make_node("Cast", ["z"], ["logits"], name="back", to=TensorProto.FLOAT))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, 32, 2])
    body = helper.make_graph(nodes, "g", [image], [logits], weights)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def built(folder: Path, graph: Path, version: str = "10.3.0", **script: Any) -> tuple[Trtexec, Path]:
    program = Trtexec.find(write_trtexec(folder / "bin", version, **script))
    plan = folder / "model.plan"
    program.build(graph, plan, EngineConfig(), INPUT)
    return program, plan


@pytest.mark.parametrize("version", VERSIONS)
def test_the_version_is_read_from_the_program(tmp_path: Path, version: str) -> None:
    assert Trtexec.find(write_trtexec(tmp_path, version)).tensorrt == version


def test_versions_are_read_in_every_way_they_are_written() -> None:
    banner = "&&&& RUNNING TensorRT.trtexec [TensorRT {}] [b17] # trtexec --help"
    read = {text: read_version(banner.format(text)) for text in ("v8601", "v100600", "v101601", "v110300", "v11.1.0.106")}
    assert read == {
        "v8601": (8, 6, 1), "v100600": (10, 6, 0), "v101601": (10, 16, 1), "v110300": (11, 3, 0), "v11.1.0.106": (11, 1, 0),
    }  # fmt: skip


def test_it_is_found_in_path_and_in_an_unpacked_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_trtexec(tmp_path / "tree" / "bin", "11.0.0")
    monkeypatch.setattr(trtexec_module, "PLACES", (str(tmp_path / "nothing"),))
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path / "tree"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert Trtexec.find().tensorrt == "11.0.0"
    write_trtexec(tmp_path / "path", "10.3.0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    assert Trtexec.find().tensorrt == "10.3.0"


def test_without_it_one_line_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trtexec_module, "PLACES", (str(tmp_path),))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackageError, match=r"trtexec is not here .*developer\.nvidia\.com/tensorrt"):
        Trtexec.find()
    with pytest.raises(MissingPackageError, match="does not exist"):
        Trtexec.find(tmp_path / "nowhere")


def test_another_program_of_this_name_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "trtexec"
    other.write_text("#!/bin/sh\necho hello\n")
    other.chmod(0o755)
    with pytest.raises(MissingPackageError, match="is not trtexec, or cannot start: hello"):
        Trtexec.find(other)


@pytest.mark.parametrize(
    ("version", "precision", "there", "absent"),
    [
        ("8.6.2", "fp32", {"--noTF32"}, {"--stronglyTyped", "--fp16"}),
        ("8.6.2", "fp16", {"--fp16", "--layerPrecisions", "--precisionConstraints"}, {"--noTF32"}),
        ("8.6.2", "int8", {"--int8"}, {"--fp16"}),
        ("10.3.0", "fp32", {"--noTF32", "--stronglyTyped"}, {"--fp16"}),
        ("10.3.0", "tf32", {"--stronglyTyped"}, {"--noTF32"}),
        ("10.3.0", "fp16", {"--stronglyTyped"}, {"--fp16", "--layerPrecisions"}),
        ("11.0.0", "int8", set(), {"--int8", "--fp16", "--stronglyTyped"}),
    ],
)
def test_each_version_is_told_the_precision_in_its_own_flags(
    tmp_path: Path, version: str, precision: str, there: set[str], absent: set[str]
) -> None:
    path = write_trtexec(tmp_path / "bin", version)
    config = EngineConfig(
        precision=precision, profiles=((1, 4, 16),), workspace_mib=512, optimization_level=4, timing_cache=tmp_path / "cache",
        refittable=True, detailed=True,
    )  # fmt: skip
    graph = write_graph(tmp_path / "model.onnx", PRECISIONS[precision])
    made = Trtexec.find(path).build(graph, tmp_path / "x.plan", config, INPUT)
    (flags,) = calls(path)
    assert there <= set(flags)
    assert not absent & set(flags)
    assert flags["--minShapes"] == "image:1x3x32x32"
    assert flags["--optShapes"] == "image:4x3x32x32"
    assert flags["--maxShapes"] == "image:16x3x32x32"
    assert flags["--memPoolSize"] == "workspace:512"
    assert flags["--builderOptimizationLevel"] == "4"
    assert {"--refit", "--skipInference"} <= set(flags)
    assert (tmp_path / "cache" / f"timing_orin_trtexec{version}.cache").read_text() == "model.onnx\n"
    assert (made["tensorrt"], made["gpu"], made["built_with"]) == (version, "Orin", f"trtexec {version}")
    assert any("INT64" in warning for warning in made["warnings"])


def test_gpus_have_timing_caches_of_their_own_and_the_record_says_what_a_build_changed(tmp_path: Path, graph: Path) -> None:
    config = EngineConfig(timing_cache=tmp_path / "timing")

    def cached(gpu: str) -> dict[str, str | None]:
        program = Trtexec.find(write_trtexec(tmp_path / "bin", gpu=gpu))
        found: dict[str, str | None] = program.build(graph, tmp_path / "x.plan", config, INPUT)["timing_cache"]
        return found

    first, second, other = cached("NVIDIA H200"), cached("NVIDIA H200"), cached("Orin")
    assert first["file"] == second["file"] == "timing_nvidia-h200_trtexec10.3.0.cache"
    assert (first["before"], second["before"]) == (None, first["after"])
    assert second["after"] == sha256_of(tmp_path / "timing" / str(second["file"]))
    assert other["file"] == "timing_orin_trtexec10.3.0.cache"
    assert other["before"] is None


def test_layers_that_the_file_computes_in_fp32_are_held_there_by_8_6(tmp_path: Path) -> None:
    path = write_trtexec(tmp_path / "bin", "8.6.2")
    graph = write_graph(tmp_path / "model.onnx", "fp16")
    Trtexec.find(path).build(graph, tmp_path / "x.plan", EngineConfig(precision="fp16"), INPUT)
    (flags,) = calls(path)
    assert "norm:fp32" in flags["--layerPrecisions"].split(",")
    assert "product:fp32" not in flags["--layerPrecisions"].split(",")
    assert flags["--precisionConstraints"] == "obey"


def test_what_trtexec_cannot_build_is_refused_before_it_starts(tmp_path: Path, graph: Path) -> None:
    program = Trtexec.find(write_trtexec(tmp_path / "bin"))
    with pytest.raises(ExportError, match="computes in fp32, asked for an engine of fp16"):
        program.build(graph, tmp_path / "x.plan", EngineConfig(precision="fp16"), INPUT)
    with pytest.raises(ExportError, match="one profile of batches, asked for 2"):
        program.build(graph, tmp_path / "x.plan", EngineConfig(profiles=((1, 1, 1), (8, 8, 8))), INPUT)
    assert calls(program.path) == []


def test_a_failed_build_is_one_line_with_its_reason_and_leaves_nothing(tmp_path: Path, graph: Path) -> None:
    program = Trtexec.find(write_trtexec(tmp_path / "bin", fails={"--onnx": "[TRT] In node 4 with name: /norm: Unsupported"}))
    with pytest.raises(ExportError, match=r"trtexec 10\.3\.0 cannot build .*node 4 with name: /norm"):
        program.build(graph, tmp_path / "x.plan", EngineConfig(), INPUT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "model.onnx"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("copies", [True, False])
def test_the_conditions_asked_for_hold_in_every_version(
    tmp_path: Path, graph: Path, version: str, cuda_graph: bool, copies: bool
) -> None:
    program, plan = built(tmp_path, graph, version, gpu_ms=TIMES, copy_ms=0.5)
    times = program.time(plan, INPUT, Timing(cuda_graph=cuda_graph, copies=copies, min_runs=5))
    factor = 0.75 if cuda_graph else 1.0
    assert times.gpu_ms == pytest.approx([factor * value for value in TIMES])
    assert times.latency_ms == pytest.approx([factor * value + 1.0 * copies for value in TIMES])
    assert times.settings["cuda_graph"] == ("on" if cuda_graph else "off")
    assert times.settings["copies"] == ("counted" if copies else "none")
    assert times.settings["in_flight"] == "1"
    assert (times.gpu, times.warmup_runs, times.settings["trtexec"]) == ("Orin", 57, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_without_the_file_of_times_the_printed_runs_are_read(tmp_path: Path, graph: Path, version: str) -> None:
    program, plan = built(tmp_path, graph, version, gpu_ms=TIMES, without=["--exportTimes"])
    times = program.time(plan, INPUT, Timing(cuda_graph=False, min_runs=5))
    assert times.gpu_ms == pytest.approx(TIMES)
    assert times.enqueue_ms == pytest.approx([0.1] * 5)


def test_printed_runs_of_a_real_program_are_read() -> None:
    assert read_log(PRINTED) == [(7.16092, 7.14139, 7.86694)]
    check_summary(PRINTED, [7.14139])
    with pytest.raises(MeasurementError, match=r"prints a median of 7\.14139 ms, its 3 runs have 2 ms"):
        check_summary(PRINTED, [1.0, 2.0, 3.0])


def test_the_median_of_the_runs_is_the_printed_one(tmp_path: Path, graph: Path) -> None:
    program, plan = built(tmp_path, graph, gpu_ms=(2.0, 4.0))
    times = program.time(plan, INPUT, Timing(cuda_graph=False, min_runs=4))
    assert statistics.median(times.gpu_ms) == 3.0


def test_a_stale_plan_and_a_refused_flag_are_one_line_each(tmp_path: Path, graph: Path) -> None:
    _, plan = built(tmp_path, graph, "8.6.2")
    newer = Trtexec.find(write_trtexec(tmp_path / "newer", "11.0.0"))
    with pytest.raises(MeasurementError, match=r"trtexec 11\.0\.0 cannot time .*version tag does not match"):
        newer.time(plan, INPUT)


def test_times_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text('[{"latencyMs": 0.0, "computeMs": 0.0, "startEnqMs": 0, "endEnqMs": 1}]')
    with pytest.raises(CheckpointError, match="holds no times"):
        read_times(path)
    path.write_text("[{")
    with pytest.raises(CheckpointError, match="not JSON as trtexec writes it"):
        read_times(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_layer_times_come_with_the_engines_own_description(tmp_path: Path, graph: Path, version: str) -> None:
    program, plan = built(tmp_path, graph, version)
    layers, described = program.layers(plan, INPUT)
    assert [layer["name"] for layer in layers] == [layer["Name"] for layer in described["Layers"]]
    assert layers[0]["averageMs"] == 0.8


def test_its_runs_get_the_statistics_of_every_other_measurement(tmp_path: Path, graph: Path) -> None:
    program, plan = built(tmp_path, graph, gpu_ms=[2.0] * 10 + [2.5])
    times = program.time(plan, INPUT, Timing(cuda_graph=False, copies=True, min_runs=33))
    taken = trtexec_measurement("model.plan", times, precision="fp16", device=DeviceFacts.collect())
    assert (taken.backend, taken.precision, taken.stats.n, taken.stats.p50_ms) == ("trtexec", "fp16", 33, 2.5)  # 2 copies of 0.25
    assert taken.device_stats is not None
    assert taken.device_stats.p50_ms == 2.0
    assert taken.verdict.level == "UNSTABLE"  # 3 runs of 33 take a quarter longer: 5.8 % scatter, 2.5 % are the limit
    assert Measurement.from_dict(taken.to_dict()) == taken
    assert taken.measurement_conditions().backend == "trtexec"
