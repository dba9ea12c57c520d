"""Profiling of files: what is measured, what is not and why, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, MeasurementError
from autoformer.export.manifest import Artefact, Manifest, sha256_of
from autoformer.networks.folders import save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.profiling.backends.of_artefacts import onnx_precision
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig
from autoformer.profiling.profiles.latency import (
    Profile,
    ProfileRequest,
    profile_artefacts,
    profile_until_valid,
    reference_network,
)
from autoformer.space import SearchSpace
from tests.support.backends import graph

QUICK = MeasureConfig(warmup_s=0, warmup_max_s=0.05, warmup_window=2, rounds=2, lead_in_runs=0, min_runs=20, min_s=0, max_s=2)
HAS_GPU = DeviceFacts.collect().has_gpu


@pytest.fixture
def subnet_folder(tmp_path: Path) -> Path:
    space = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=3)
    preprocessing = Preprocessing(image_size=8, in_chans=1, mean=(0.5,), std=(0.5,))
    folder = tmp_path / "best"
    save_subnet(Subnet.from_space(space, space.smallest), folder, preprocessing=preprocessing, classes=("a", "b", "c"), record={})
    return folder


def test_files_and_folders_are_measured_beside_a_reference(tmp_path: Path, subnet_folder: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(graph(["batch", 3, 8, 8]))
    out = tmp_path / "profile.json"
    profile = profile_artefacts([model, subnet_folder], ProfileRequest(batch=2, threads=1), config=QUICK, out=out)
    on_cpu = [taken.name for taken in profile.measurements if taken.backend.endswith("-cpu")]
    assert on_cpu == ["model.onnx (onnxruntime-cpu)", "best (torch-cpu)"]
    assert all(taken.batch == 2 for taken in profile.measurements)
    assert profile.reference.threads == 1
    first = profile.measurements[0]
    assert profile.ratio(first) == first.stats.p50_ms / profile.reference.stats.p50_ms
    assert Profile.load(out) == profile


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_what_a_machine_without_gpu_cannot_measure_is_listed_with_its_reason(tmp_path: Path, subnet_folder: Path) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"plan")
    profile = profile_artefacts([subnet_folder, plan], ProfileRequest(threads=1), config=QUICK)
    missing = [(item.name, item.backend, item.reason) for item in profile.not_measured]
    reason = "no NVIDIA GPU was found"
    plans = [("model.plan", "tensorrt", reason), ("model.plan", "tensorrt-graph", reason)]
    assert missing == [("best", "torch-cuda", reason), *plans]
    with pytest.raises(MeasurementError, match=r"nothing could be measured: model\.plan on tensorrt: no NVIDIA GPU"):
        profile_artefacts([plan], config=QUICK)


def test_an_export_folder_stands_for_its_files_and_says_what_it_lacks(tmp_path: Path) -> None:
    model = tmp_path / "model.fp32.onnx"
    model.write_bytes(graph(["batch", 1, 8, 8]))
    exported = Artefact("onnx", "fp32", "exported", "equal", file=model.name, sha256=sha256_of(model))
    rejected = Artefact("onnx", "int8", "rejected", "disagrees on 3 % of the images")
    preprocessing = Preprocessing(image_size=8, in_chans=1, mean=(0.5,), std=(0.5,))
    manifest = Manifest(artefacts=(exported, rejected), classes=("a", "b"), preprocessing=preprocessing, params=1)
    manifest.save(tmp_path)
    profile = profile_artefacts([tmp_path], ProfileRequest(threads=1), config=QUICK)
    assert profile.measurements[0].name == "model.fp32.onnx (onnxruntime-cpu)"
    reasons = {item.name: item.reason for item in profile.not_measured}
    assert reasons[f"{tmp_path.name}/onnx int8"] == "rejected: disagrees on 3 % of the images"


def test_equal_file_names_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name / "model.onnx" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(graph(["batch", 4]))
    profile = profile_artefacts([*paths, paths[0]], ProfileRequest(threads=1), config=QUICK)
    names = [taken.name for taken in profile.measurements if taken.backend == "onnxruntime-cpu"]
    assert names == [f"{path} (onnxruntime-cpu)" for path in paths]


def test_paths_that_are_no_artefact_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.onnx does not exist"):
        profile_artefacts([tmp_path / "absent.onnx"])
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"notes\.txt is none of these"):
        profile_artefacts([tmp_path / "notes.txt"])
    (tmp_path / "cut.onnx").write_bytes(reference_network()[:-100])
    with pytest.raises(CheckpointError, match=r"cut\.onnx is truncated"):
        profile_artefacts([tmp_path / "cut.onnx"])
    with pytest.raises(MeasurementError, match="no path was given"):
        profile_artefacts([])


def test_a_fixed_batch_that_does_not_fit_is_listed_as_not_measured(tmp_path: Path) -> None:
    fixed, free = tmp_path / "fixed.onnx", tmp_path / "free.onnx"
    fixed.write_bytes(graph([1, 4]))
    free.write_bytes(graph(["batch", 4]))
    profile = profile_artefacts([fixed, free], ProfileRequest(batch=2, threads=1), config=QUICK)
    reasons = {(item.name, item.backend): item.reason for item in profile.not_measured}
    assert "fixed to batch 1, asked for 2" in reasons["fixed.onnx", "onnxruntime-cpu"]


def test_precision_is_read_from_the_file(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1])
    zero = helper.make_tensor("zero", TensorProto.INT8, [], [0])
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["logits"]),
    ]
    float_in, float_out = (value(name, TensorProto.FLOAT, ["b"]) for name in ("images", "logits"))
    quantised = helper.make_model(helper.make_graph(nodes, "q", [float_in], [float_out], [scale, zero]))
    half = helper.make_tensor("w", TensorProto.FLOAT16, [1], [1.0])
    half_in, half_out = (value(name, TensorProto.FLOAT16, ["b"]) for name in ("images", "logits"))
    add = helper.make_node("Add", ["images", "w"], ["logits"])
    halved = helper.make_model(helper.make_graph([add], "h", [half_in], [half_out], [half]))
    for model, precision in ((quantised, "int8"), (halved, "fp16")):
        onnx.save(model, tmp_path / "m.onnx")
        assert onnx_precision(tmp_path / "m.onnx") == precision
    (tmp_path / "m.onnx").write_bytes(graph(["b", 4]))
    assert onnx_precision(tmp_path / "m.onnx") == "fp32"
    (tmp_path / "m.onnx").write_bytes(graph(["b", 4], metadata={"autoformer.precision": "int8"}))
    assert onnx_precision(tmp_path / "m.onnx") == "int8"


@pytest.mark.parametrize("text", ["{", '{"format": "other"}', '{"format": "autoformer/profile/1"}'])
def test_a_damaged_profile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"profile\.json"):
        Profile.load(tmp_path / "profile.json")


@pytest.mark.parametrize(
    ("levels", "attempt"), [(["VALID"], 1), (["UNSTABLE", "VALID"], 2), (["UNSTABLE", "INVALID", "UNSTABLE"], 3)]
)
def test_an_unsteady_measurement_is_repeated_and_the_last_attempt_is_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: list[str], attempt: int
) -> None:
    (tmp_path / "model.onnx").write_bytes(graph(["batch", 3, 4, 4]))
    real = profile_artefacts([tmp_path / "model.onnx"], ProfileRequest(threads=1), config=QUICK)
    answers = iter(levels)

    def scripted(*_: object, **__: object) -> Profile:
        verdict = replace(real.measurements[0].verdict, level=next(answers))
        return replace(real, measurements=(replace(real.measurements[0], verdict=verdict),))

    monkeypatch.setattr("autoformer.profiling.profiles.latency.profile_artefacts", scripted)
    found = profile_until_valid([tmp_path / "model.onnx"], attempts=3, out=tmp_path / "latency.json")
    assert (found.attempt, found.measurements[0].verdict.level) == (attempt, levels[-1])
    assert Profile.load(tmp_path / "latency.json").attempt == attempt
