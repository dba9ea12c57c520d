"""Running engines: profiles, CUDA graphs with their fall-backs, plans of elsewhere, and no memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, MeasurementError
from autoformer.export.engines.builder import BuiltEngine, EngineBuilder, EngineConfig
from autoformer.export.engines.engine import Engine
from autoformer.export.manifest import Artefact, Manifest
from tests.support.engines import EXPECTED, IMAGES, VERSIONS, Install


def build(graph: Path, *profiles: tuple[int, int, int]) -> BuiltEngine:
    return EngineBuilder(EngineConfig(profiles=profiles or ((1, 1, 8),))).build(graph, graph.with_name("model.plan"))


def load(built: BuiltEngine) -> Engine:
    return Engine.load(built.path, sha256=built.sha256)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_profile_tuned_nearest_to_the_batch_is_taken(version: str, graph: Path, install: Install) -> None:
    install(version)
    with load(build(graph, (1, 1, 1), (1, 4, 8), (2, 8, 8))) as engine:
        assert engine.profiles == ((1, 1, 1), (1, 4, 8), (2, 8, 8))
        assert (engine.min_batch, engine.max_batch) == (1, 8)
        chosen = []
        for count in (8, 1, 2, 3, 7, 4):  # to and fro between profiles
            np.testing.assert_allclose(engine(IMAGES[:count]), EXPECTED[:count], rtol=1e-5)
            chosen.append(engine.profile)
        assert chosen == [2, 0, 1, 1, 2, 1]
        engine.prepare(8, profile=1)
        np.testing.assert_allclose(engine(IMAGES), EXPECTED, rtol=1e-5)
        assert engine.profile == 1, "a profile asked for stays"


def test_batches_and_profiles_that_there_are_not_are_refused(graph: Path, install: Install) -> None:
    install()
    with load(build(graph, (1, 1, 2), (4, 4, 8))) as engine:
        with pytest.raises(MeasurementError, match="takes 1 to 2 or 4 to 8 images at once, asked for 3"):
            engine.prepare(3)
        with pytest.raises(MeasurementError, match="takes 1 to 2 images at once, asked for 4"):
            engine.prepare(4, profile=0)
        with pytest.raises(MeasurementError, match="has profiles 0 to 1, asked for 2"):
            engine.prepare(4, profile=2)
    install(fail="switch")
    with load(build(graph, (1, 1, 2), (4, 4, 8))) as engine, pytest.raises(MeasurementError, match="refuses its profile 1"):
        engine.prepare(4)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_captured_graph_gives_the_same_logits(version: str, graph: Path, install: Install) -> None:
    cuda = install(version)
    with load(build(graph)) as engine:
        engine.prepare(2)
        assert engine.capture() is None
        assert engine.capture() is None, "a second capture of the same batch is the first one"
        assert cuda.launches == 0
        np.testing.assert_allclose(engine(IMAGES[:2]), EXPECTED[:2], rtol=1e-5)
        np.testing.assert_allclose(engine(IMAGES[2:4]), EXPECTED[2:4], rtol=1e-5)
        assert engine.infer_timed() == 0.25
        assert cuda.launches == 3
        np.testing.assert_allclose(engine(IMAGES[:5]), EXPECTED[:5], rtol=1e-5)  # another batch: no graph of it
        assert cuda.launches == 3
        engine.prepare(5)
        assert engine.capture() is None
        np.testing.assert_allclose(engine(IMAGES[:5]), EXPECTED[:5], rtol=1e-5)
        assert cuda.launches == 4


@pytest.mark.parametrize(
    ("fail", "call", "reason"),
    [
        ("capture", "", "CUDA could not capture a graph: cudaErrorStreamCaptureInvalidated"),
        ("refuses", "", "TensorRT cannot be captured"),
        ("", "cudaStreamBeginCapture", "CUDA could not begin a capture: cudaErrorNotSupported"),
        ("", "cudaGraphInstantiateWithFlags", "CUDA could not make a graph ready: cudaErrorNotSupported"),
    ],
)
def test_an_engine_that_cannot_be_captured_says_why_and_runs_on(
    fail: str, call: str, reason: str, graph: Path, install: Install
) -> None:
    cuda = install(fail=fail)
    cuda.fails.add(call)
    with load(build(graph)) as engine:
        engine.prepare(2)
        assert reason in str(engine.capture())
        np.testing.assert_allclose(engine(IMAGES[:2]), EXPECTED[:2], rtol=1e-5)
        assert engine.infer_timed() == 0.25
        assert cuda.launches == 0


def test_capturing_needs_a_prepared_batch(graph: Path, install: Install) -> None:
    install()
    with load(build(graph)) as engine, pytest.raises(MeasurementError, match="not prepared"):
        engine.capture()


def test_no_memory_says_what_to_do_and_leaves_nothing(graph: Path, install: Install) -> None:
    cuda = install()
    with load(build(graph)) as engine:
        engine.prepare(1)
        cuda.fails.add("cudaMalloc")
        with pytest.raises(MeasurementError, match=r"could not allocate 32 bytes: cudaErrorMemoryAllocation \(2\); free memory"):
            engine.prepare(2)
        with pytest.raises(MeasurementError, match="not prepared"):
            engine.infer()
        cuda.fails.clear()
        np.testing.assert_allclose(engine(IMAGES[:2]), EXPECTED[:2], rtol=1e-5)


def with_manifest(built: BuiltEngine, *, without: str = "") -> None:
    artefact = Artefact(
        format="tensorrt", precision="fp32", status="exported", reason="equal", file=built.path.name, sha256=built.sha256,
        made={key: value for key, value in built.made().items() if key != without},
    )  # fmt: skip
    preprocessing = Preprocessing(image_size=2, in_chans=1, mean=(0.0,), std=(1.0,))
    Manifest(artefacts=(artefact,), classes=("a", "b", "c"), preprocessing=preprocessing, params=12).save(built.path.parent)


@pytest.mark.parametrize(
    ("here", "message"),
    [
        ({"version": "10.16.1"}, r"was built by TensorRT 10\.3\.0, here is 10\.16\.1; build it again on this device"),
        ({"gpu": "Other"}, r"was built for Fake Orin \(compute capability 8\.7\), here is Other \(8\.7\); build it again"),
        ({"capability": (9, 0)}, r"built for Fake Orin \(compute capability 8\.7\), here is Fake Orin \(9\.0\); build it again"),
    ],
)
@pytest.mark.parametrize("digest_given", [True, False])
def test_a_plan_of_elsewhere_is_not_loaded(
    here: dict[str, object], message: str, digest_given: bool, graph: Path, install: Install
) -> None:
    install()
    built = build(graph)
    with_manifest(built)
    with Engine.load(built.path) as engine:
        np.testing.assert_allclose(engine(IMAGES), EXPECTED, rtol=1e-5)
    install(**here)
    with pytest.raises(CheckpointError, match=message):
        Engine.load(built.path, sha256=built.sha256 if digest_given else None)


@pytest.mark.parametrize("key", ["tensorrt", "gpu", "compute_capability"])
def test_a_plan_is_not_loaded_when_the_manifest_leaves_out_what_it_was_built_for(key: str, graph: Path, install: Install) -> None:
    install()
    built = build(graph)
    with_manifest(built, without=key)
    with pytest.raises(CheckpointError, match=f"does not say for which {key} .*; build it again on this device"):
        Engine.load(built.path)


def test_a_plan_that_tensorrt_itself_refuses_names_the_way_out(graph: Path, install: Install) -> None:
    install()
    built = build(graph)
    install(gpu="Other")  # no manifest says so
    with pytest.raises(CheckpointError, match=r"cannot load .*built for another device; build it again on this device"):
        load(built)
    with pytest.raises(CheckpointError, match="other SHA-256"):
        load(replace(built, sha256="0" * 64))
