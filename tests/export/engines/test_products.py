"""Engines of TensorRT-RTX beside those of TensorRT, on the strict stand-in: for here, for elsewhere, kept apart, refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import AutoformerError, CheckpointError, ExportError, MissingPackageError
from autoformer.export.bundle import model_card
from autoformer.export.engines.artefact import engine_artefact, how_to_build, runs_here
from autoformer.export.engines.builder import EngineBuilder, EngineConfig
from autoformer.export.engines.engine import Engine
from autoformer.export.engines.tensorrt_versions import TENSORRT, TENSORRT_RTX, builder_missing, how_to_rebuild, where
from autoformer.export.expected import ExpectedResults
from autoformer.export.manifest import Artefact, Manifest
from autoformer.export.parity import Parity, compare, run_in_batches
from autoformer.profiling.backends.tensorrt_backend import TensorRTBackend
from tests.support.engines import EXPECTED, IMAGES, RTX, Install
from tests.support.fake_tensorrt import MARK

if TYPE_CHECKING:
    from autoformer.export.parity import Model

FOR_THIS = EngineConfig(format="tensorrt-rtx", gpus=("8.9",))
PREPROCESSING = Preprocessing(image_size=2, in_chans=1, mean=(0.0,), std=(1.0,))
SOURCE = Artefact("onnx", "fp32", "exported", "equal", "model.onnx", "0", 1, "images", ("batch", 1, 2, 2), "logits")


def judge(model: Model, batches: tuple[int, ...]) -> tuple[Parity, int]:
    given, sizes = run_in_batches(model, IMAGES, batches)
    return compare(EXPECTED, given, precision="fp32", batches=sizes), 8


@pytest.mark.parametrize(("version", "is_taken"), [("1.4.0.76", False), ("1.5.0.1", True), ("1.10.0.1", True), ("2.0", True)])
def test_versions_before_the_first_that_is_known_are_refused(version: str, is_taken: bool, install: Install) -> None:
    install(RTX)
    sys.modules["tensorrt_rtx"].__version__ = version  # type: ignore[attr-defined]
    missing = builder_missing(TENSORRT_RTX)
    assert (missing is None) == is_taken
    assert is_taken or f"TensorRT-RTX {version} is too old; expected 1.5 or newer" in str(missing)


def listed(folder: Path, artefact: Artefact) -> None:
    Manifest((artefact,), ("a", "b", "c"), PREPROCESSING, params=12).save(folder)


def test_an_engine_for_the_gpu_that_is_here_is_run_and_counts(graph: Path, install: Install) -> None:
    install(RTX, gpu="RTX 4090", capability=(8, 9))
    plan = graph.with_name(FOR_THIS.plan_name)
    found = engine_artefact(SOURCE, graph, plan, FOR_THIS, judge)
    assert (found.format, found.status, found.file, found.correct) == ("tensorrt-rtx", "exported", "model.fp32.rtx.plan", 8)
    assert found.made["tensorrt-rtx"] == RTX
    assert {"gpu", "tensorrt"}.isdisjoint(found.made), "it is for every GPU of its compute capability"
    listed(plan.parent, found)
    with Engine.load(plan) as engine:
        np.testing.assert_allclose(engine(IMAGES), EXPECTED, rtol=1e-5)
    with TensorRTBackend(plan, batch=2) as backend:
        assert backend.name == "tensorrt-rtx"
    with TensorRTBackend(plan, batch=2, cuda_graph=True) as backend:
        assert backend.name == "tensorrt-rtx-graph"


@pytest.mark.parametrize("here", [{"devices": 0}, {"devices": -1}, {"gpu": "RTX 3090", "capability": (8, 6)}])
def test_an_engine_for_another_gpu_is_built_and_said_to_be_so(here: dict[str, object], graph: Path, install: Install) -> None:
    install(RTX, **here)
    plan = graph.with_name(FOR_THIS.plan_name)
    found = engine_artefact(SOURCE, graph, plan, FOR_THIS, judge)
    assert (found.status, found.file, found.parity, found.correct) == ("built", plan.name, None, None)
    assert found.reason == f"built ahead of time by TensorRT-RTX {RTX} for sm89; not run here, so verify it on its device"
    assert json.loads(plan.read_bytes()[len(MARK) :].split(b"\n")[0])["capabilities"] == ["SM89"]
    listed(plan.parent, found)
    said = r"was built for sm89, here is RTX 3090 \(compute capability 8.6\)|CUDA could not count|no CUDA device"
    with pytest.raises(AutoformerError, match=said) as caught:
        Engine.load(plan)
    assert isinstance(caught.value, MissingPackageError) == ("gpu" not in here), "nothing is wrong where no device is"


def test_an_engine_of_another_version_is_not_loaded(graph: Path, install: Install) -> None:
    install(RTX, capability=(8, 9))
    plan = graph.with_name(FOR_THIS.plan_name)
    listed(plan.parent, engine_artefact(SOURCE, graph, plan, FOR_THIS, judge))
    install("1.8.0.1", capability=(8, 9))
    with pytest.raises(CheckpointError, match=r"was built by TensorRT-RTX 1\.7\.1\.116, here is 1\.8\.0\.1; build it again"):
        Engine.load(plan)


def test_a_record_without_gpus_or_version_is_not_believed(graph: Path, install: Install) -> None:
    install(RTX, capability=(8, 9))
    plan = graph.with_name(FOR_THIS.plan_name)
    found = engine_artefact(SOURCE, graph, plan, FOR_THIS, judge)
    for key, damage in (("config", {}), ("config", {"gpus": 7}), ("config", {"gpus": [7]}), ("tensorrt-rtx", None)):
        listed(plan.parent, Artefact(**{**vars(found), "made": {**found.made, key: damage}}))
        with pytest.raises(CheckpointError, match="does not say for which"):
            Engine.load(plan)


def test_both_products_are_used_side_by_side(graph: Path, install: Install) -> None:
    cuda = install(RTX, capability=(8, 9))
    rtx = EngineBuilder(FOR_THIS).build(graph, graph.with_name("rtx.plan"))
    install("10.3.0", capability=(8, 9))
    plain = EngineBuilder(EngineConfig()).build(graph, graph.with_name("plain.plan"))
    assert (set(rtx.here), "gpu" in plain.here) == ({"tensorrt-rtx"}, True)
    with Engine.load(plain.path, sha256=plain.sha256) as one:
        np.testing.assert_allclose(one(IMAGES), EXPECTED, rtol=1e-5)
    assert not cuda.memory


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "trt"}, "engines are tensorrt or tensorrt-rtx, got 'trt'"),
        ({"gpus": ("8.9",)}, "TensorRT builds for the GPU that is here"),
        ({"format": "tensorrt-rtx", "gpus": ("7.5", "8.9")}, r"an engine for Turing \(sm75\) is for nothing else"),
        ({"format": "tensorrt-rtx", "timing_cache": Path("cache")}, "nothing is timed ahead of time"),
        ({"format": "tensorrt-rtx", "refittable": True}, "cannot build refittable engines ahead of time"),
    ],
)
def test_what_a_product_cannot_do_is_refused_in_its_words(values: dict[str, object], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        EngineConfig(**values)  # type: ignore[arg-type]


def test_a_capability_that_the_version_does_not_know_is_refused(graph: Path, install: Install) -> None:
    install(RTX)
    with pytest.raises(ExportError, match=r"TensorRT-RTX 1\.7\.1\.116 builds for SM120, SM121, SM75.*, asked for SM87"):
        EngineBuilder(EngineConfig(format="tensorrt-rtx", gpus=("8.7",))).build(graph, graph.with_name("x.plan"))


def test_what_is_missing_is_said_of_the_product(monkeypatch: pytest.MonkeyPatch, install: Install) -> None:
    install(RTX, devices=0)
    assert builder_missing(TENSORRT_RTX) is None, "it builds without a device"
    assert runs_here(EngineConfig()), "an engine of TensorRT is built where it runs"
    assert not runs_here(FOR_THIS)
    assert "autoformer-toolchain[tensorrt-rtx]" in where(TENSORRT_RTX)
    assert how_to_rebuild(TENSORRT_RTX).endswith("autoformer export --format tensorrt-rtx")
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(MissingPackageError, match="TensorRT-RTX"):
        how_to_build(TENSORRT_RTX)
    assert builder_missing(TENSORRT) is not None


def test_the_digest_is_asked_for_like_that_of_any_plan(graph: Path, install: Install) -> None:
    install(RTX, capability=(8, 9))
    plan = graph.with_name(FOR_THIS.plan_name)
    listed(plan.parent, engine_artefact(SOURCE, graph, plan, FOR_THIS, judge))
    plan.write_bytes(plan.read_bytes() + b" ")
    with pytest.raises(
        CheckpointError, match=r"other SHA-256.*build it again on this device: autoformer export --format tensorrt-rtx"
    ):
        Engine.load(plan)


def test_the_card_of_a_bundle_says_what_runs_engines_for_elsewhere() -> None:
    manifest, expected = Manifest((SOURCE,), ("a", "b", "c"), PREPROCESSING, params=12), ExpectedResults(name="a", labels=(0,))
    assert "ahead of time" not in model_card(manifest, expected)
    built = replace(SOURCE, format="tensorrt-rtx", status="built", file="m.plan", made={"tensorrt-rtx": "1.7.1"})
    card = model_card(replace(manifest, artefacts=(SOURCE, built)), expected)
    assert "Engines that were built ahead of time run by tensorrt-rtx 1.7.1 and cuda-python, on the RTX GPUs" in card
    assert "another version: `python3 board.pyz build --format tensorrt-rtx`" in card
