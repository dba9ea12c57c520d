"""Engines in the commands: exported in several precisions, refitted, looked into, and timed for latency tables; on the fake."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError
from autoformer.export.artefacts import ExportSource
from autoformer.export.manifest import Manifest
from autoformer.export.parity import in_profiles
from autoformer.export.predictor import open_predictor
from autoformer.files import read_json
from autoformer.networks.subnet import Subnet
from autoformer.profiling.backends.of_spaces import Setup, opened_networks
from autoformer.profiling.insides.engine_insides import look_inside, plans_of
from autoformer.profiling.profiles.refitting import refit_folder
from autoformer.space import SearchSpace
from tests.support.commands import command
from tests.support.exporting import write_export
from tests.support.fake_cuda import FakeCuda

SPACE = SearchSpace.preset("micro", image_size=16, in_chans=3, num_classes=4)
PREPROCESSING = Preprocessing(image_size=16, in_chans=3, mean=(0.5,) * 3, std=(0.2,) * 3)
IMAGES = PREPROCESSING.normalise(np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8))
LABELS = np.arange(12) % 4
GIVEN = ExportSource(images=IMAGES, labels=LABELS, preprocessing=PREPROCESSING, classes=tuple("abcd"))
Install = Callable[..., FakeCuda]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def network(seed: int = 0) -> Subnet:
    torch.manual_seed(seed)
    return Subnet.from_space(SPACE, SPACE.smallest).eval()


def exported(out: Path, **changed: Any) -> Manifest:
    given: dict[str, Any] = {"precisions": ("fp32",), "formats": ("onnx", "tensorrt"), **changed}
    return write_export(network(), out, images=IMAGES, labels=LABELS, preprocessing=PREPROCESSING, classes=tuple("abcd"), **given)


@pytest.mark.slow
def test_an_export_builds_one_engine_of_each_precision_as_it_is_told(tmp_path: Path, install: Install) -> None:
    install()
    manifest = exported(
        tmp_path / "out", precisions=("fp32", "tf32"), engine_batches=("1", "1:4:8"), timing_cache=tmp_path / "timing",
        refittable=True,
    )  # fmt: skip
    made = {artefact.precision: artefact for artefact in manifest.artefacts if artefact.format == "tensorrt"}
    assert {name: (one.status, one.file) for name, one in made.items()} == {
        "fp32": ("exported", "model.fp32.plan"), "tf32": ("exported", "model.tf32.plan"),
    }  # fmt: skip
    config = made["fp32"].made["config"]
    assert (config["profiles"], config["refittable"]) == ([[1, 1, 1], [1, 4, 8]], True)
    assert made["tf32"].made["timing_cache"]["before"] == made["fp32"].made["timing_cache"]["after"]
    assert made["fp32"].parity is not None
    assert made["fp32"].parity.passed
    with open_predictor(tmp_path / "out" / "model.fp32.plan") as engine, open_predictor(tmp_path / "out") as graph:
        np.testing.assert_allclose(engine(IMAGES), graph(IMAGES), atol=1e-4)


@pytest.mark.slow
def test_a_plan_that_was_never_compared_predicts_nothing(tmp_path: Path, install: Install) -> None:
    install()
    exported(tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    record = read_json(path)
    record["artefacts"][-1]["parity"] = None
    path.write_text(json.dumps(record))
    with pytest.raises(Exception, match="was never compared with its network"):
        open_predictor(tmp_path / "out" / "model.fp32.plan")


def test_settings_of_engines_without_engines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="precision tf32 is of engines alone"):
        exported(tmp_path / "out", precisions=("fp32", "tf32"), formats=("onnx",))


def test_batches_between_profiles_are_filled_up() -> None:
    sizes: list[int] = []

    def model(images: Any) -> Any:
        sizes.append(len(images))
        return images[:, 0, 0, :1]

    images = np.arange(11, dtype=np.float32).reshape(11, 1, 1, 1)
    run = in_profiles(model, ((1, 1, 1), (4, 4, 4)))
    assert run(images).ravel().tolist() == list(range(11))
    assert sizes == [4, 4, 4]  # three are left at the end: more than one, so four
    assert run(images[:1]).ravel().tolist() == [0]
    assert sizes[-1] == 1


@pytest.mark.slow
def test_a_finetuned_network_goes_into_the_engine_and_is_compared(tmp_path: Path, install: Install) -> None:
    install()
    exported(tmp_path / "out", refittable=True)
    manifest, latency = refit_folder(tmp_path / "out", network(seed=1), tmp_path / "refitted", GIVEN, timed=False)
    assert latency == {}
    engine = manifest.find("tensorrt", "fp32")
    assert engine is not None
    assert engine.status == "exported", engine.reason
    with open_predictor(tmp_path / "refitted" / "model.fp32.plan") as refitted, torch.inference_mode():
        np.testing.assert_allclose(refitted(IMAGES), network(seed=1)(torch.from_numpy(IMAGES)).numpy(), atol=1e-4)


@pytest.mark.slow
def test_an_engine_that_was_not_built_to_be_refitted_is_rejected_with_the_reason(tmp_path: Path, install: Install) -> None:
    install()
    exported(tmp_path / "out")
    manifest, _ = refit_folder(tmp_path / "out", network(seed=1), tmp_path / "refitted", GIVEN, timed=False)
    engine = manifest.find("tensorrt", "fp32")
    assert engine is not None
    assert engine.status == "rejected"
    assert "was not built to be refitted" in engine.reason


@pytest.mark.slow
def test_a_look_inside_an_export_finds_the_graph_and_times_layers(tmp_path: Path, install: Install) -> None:
    install()
    exported(tmp_path / "out")
    ((plan, artefact, graph),) = plans_of(tmp_path / "out")
    assert graph == tmp_path / "out" / "model.fp32.onnx"
    inside = look_inside(plan, artefact, graph, twin=True, runs=3)
    assert inside.is_twin
    assert inside.batch == 1
    assert inside.layers.layers
    assert sum(time.share for time in inside.times) == pytest.approx(1.0)
    assert json.loads(json.dumps(inside.to_dict()))["plan"].endswith("model.fp32.plan")
    written = {**artefact.made["config"], "timing_cache": str(tmp_path / "elsewhere")}
    look_inside(plan, replace(artefact, made={**artefact.made, "config": written}), graph, twin=True, runs=1)
    assert not (tmp_path / "elsewhere").exists(), "a manifest names no folder to write to"
    with pytest.raises(CheckpointError, match="does not say with which settings it was built"):
        look_inside(plan, replace(artefact, made={}, input_shape=(1, 3, 16, 16)), graph, twin=True)
    answer = command("inspect", tmp_path / "out", "--top", "2")
    assert answer.code == 0, answer.err
    assert "attention in one kernel" in answer.out
    (found,) = command("inspect", tmp_path / "out" / "model.fp32.plan", "--json").json
    assert len(found["times"]) == len(inside.times)
    other = tmp_path / "out" / "other.plan"
    assert "does not exist; expected a .plan file" in command("inspect", other).error
    other.write_bytes(plan.read_bytes())  # an engine that no manifest names
    assert "holds no engine that counts" in command("inspect", other).error


@pytest.mark.slow
def test_networks_of_a_table_become_engines_once_and_share_one_timing_cache(tmp_path: Path, install: Install) -> None:
    install()
    place = tmp_path / "networks"
    place.mkdir()
    for backend in ("tensorrt", "tensorrt-graph"):
        with opened_networks(SPACE, [SPACE.smallest], Setup(backend=backend, batch=2), instances=2, folder=place) as opened:
            ((first, second),) = opened.values()
            assert (first.name, first.batch, first.threads) == (backend, 2, None)
            assert first.run() is not None
            assert second is not first
    assert len(list(place.glob("*.plan"))) == 1
    assert len(list((tmp_path / "cache" / "autoformer" / "timing").glob("*.cache"))) == 1
    (record,) = place.glob("*.b2.json")
    record.write_text("{")
    with opened_networks(SPACE, [SPACE.smallest], Setup(backend="tensorrt", batch=2), instances=1, folder=place):
        assert json.loads(record.read_text())["tensorrt"] == "10.3.0"


@pytest.mark.slow
def test_the_commands_export_score_refit_and_predict_engines(finished_run: Path, tmp_path: Path, install: Install) -> None:
    install()
    words = ("--precision", "fp32", "--format", "tensorrt", "--engine-batch", "1", "--engine-batch", "1:4:8", "--refittable")
    network, out = finished_run / "finetuned", tmp_path / "out"
    answer = command("export", network, "--out", out, *words, "--timing-cache", tmp_path / "timing", "--no-measure", "--json")
    assert answer.code == 0, answer.err
    engine = answer.json["artefacts"][-1]
    assert (engine["file"], engine["made"]["config"]["profiles"]) == ("model.fp32.plan", [[1, 1, 1], [1, 4, 8]])
    scores = [command("evaluate", out / name, "--json").json["value"] for name in ("model.fp32.plan", "model.fp32.onnx")]
    assert scores[0] == scores[1]
    answer = command("predict", out / "model.fp32.plan", "docs/digit.png", "--json")
    assert answer.json[0]["classes"] == command("predict", out, "docs/digit.png", "--json").json[0]["classes"]
    answer = command("refit", out, "--network", network, "--out", tmp_path / "again", "--json")
    assert answer.code == 0, answer.err
    assert set(answer.json["latency"]["fp32"]) == {"refitted", "fixed"}
    answer = command("export", network, "--out", tmp_path / "onnx", "--format", "onnx", "--engine-batch", "8")
    assert answer.error == "error: export: engine_batches is about engines; add tensorrt or tensorrt-rtx to the formats"
