"""Refit: new weights in an engine of the same architecture, and everything that may not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from autoformer.errors import CheckpointError, ExportError
from autoformer.export.engines.builder import BuiltEngine, EngineBuilder, EngineConfig
from autoformer.export.engines.engine import Engine
from autoformer.export.engines.refit import refit_engine
from autoformer.export.manifest import sha256_of
from tests.support.engines import EXPECTED, IMAGES, VERSIONS, WEIGHT, Install, write_graph

FINETUNED = WEIGHT[::-1].copy() * 2


def build(graph: Path, **settings: bool) -> BuiltEngine:
    config = EngineConfig(**{"refittable": True, **settings})  # type: ignore[arg-type]
    return EngineBuilder(config).build(graph, graph.with_name("model.plan"))


@pytest.mark.parametrize("version", VERSIONS)
def test_refitted_engine_gives_the_logits_of_the_finetuned_network(version: str, graph: Path, install: Install) -> None:
    install(version)
    built = build(graph)
    finetuned, out = write_graph(graph.with_name("finetuned.onnx"), weight=FINETUNED), graph.with_name("finetuned.plan")
    refitted = refit_engine(built.path, finetuned, out, sha256=built.sha256)
    with Engine.load(out, sha256=refitted.sha256) as engine:
        np.testing.assert_allclose(engine(IMAGES), IMAGES.reshape(8, 4) @ FINETUNED, rtol=1e-5)
    with Engine.load(built.path, sha256=built.sha256) as engine:  # the source is as it was
        np.testing.assert_allclose(engine(IMAGES), EXPECTED, rtol=1e-5)
    made = json.loads(json.dumps(refitted.made()))
    assert made.pop("refit_seconds") >= 0
    again = version.startswith("11")  # until 10.14 a plan written after a refit cannot be refitted
    assert made == {
        "source_sha256": built.sha256, "graph_sha256": sha256_of(finetuned), "num_weights": 1, "is_refittable": again,
        "tensorrt": version, "gpu": "Fake Orin", "compute_capability": "8.7", "driver": "12.8", "cuda": "12.6",
    }  # fmt: skip
    if again:
        back = refit_engine(out, graph, graph.with_name("back.plan"), sha256=refitted.sha256)
        with Engine.load(back.path, sha256=back.sha256) as engine:
            np.testing.assert_allclose(engine(IMAGES), EXPECTED, rtol=1e-5)
    else:
        with pytest.raises(ExportError, match="not built to be refitted"):
            refit_engine(out, graph, graph.with_name("back.plan"), sha256=refitted.sha256)


def test_whole_numbers_are_given_to_8_6_as_it_keeps_them(graph: Path, install: Install) -> None:
    install("8.6.1")
    shape = numpy_helper.from_array(np.array([-1, 4], np.int64), "shape")
    ends = [numpy_helper.from_array(np.array([end], np.int64), name) for name, end in (("from", 0), ("to", 2**63 - 1), ("of", 1))]
    nodes = (
        helper.make_node("Slice", ["images", "from", "to", "of"], ["all"], name="slice"),
        helper.make_node("Reshape", ["all", "shape"], ["x"], name="reshape"),
        helper.make_node("MatMul", ["x", "w"], ["logits"], name="product"),
    )
    built = build(write_graph(graph, nodes=nodes, stored=(shape, *ends)))
    finetuned = write_graph(graph.with_name("finetuned.onnx"), weight=FINETUNED, nodes=nodes, stored=(shape, *ends))
    refitted = refit_engine(built.path, finetuned, graph.with_name("out.plan"), sha256=built.sha256)
    with Engine.load(refitted.path, sha256=refitted.sha256) as engine:
        np.testing.assert_allclose(engine(IMAGES), IMAGES.reshape(8, 4) @ FINETUNED, rtol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_weights_that_do_not_fit_are_named_and_nothing_is_written(version: str, graph: Path, install: Install) -> None:
    install(version)
    built, out = build(graph), graph.with_name("out.plan")
    wide = write_graph(graph.with_name("wide.onnx"), weight=np.ones((4, 5), np.float32))
    with pytest.raises(ExportError, match="do not fit") as caught:
        refit_engine(built.path, wide, out, sha256=built.sha256)
    assert ("w is refused" if version.startswith("8") else "w has 20 values, the engine's 12") in str(caught.value)
    other = graph.with_name("other.onnx")
    other.write_bytes(graph.read_bytes().replace(b"\x42\x01w", b"\x42\x01v").replace(b"\x0a\x01w", b"\x0a\x01v"))
    with pytest.raises(ExportError, match=r"has no weights for w of .*export the same architecture the same way"):
        refit_engine(built.path, other, out, sha256=built.sha256)
    assert not out.exists()


def test_weights_of_another_type_are_named(graph: Path, install: Install) -> None:
    install()
    built = build(graph)
    half = write_graph(graph.with_name("half.onnx"), weight=WEIGHT.astype(np.float16))
    with pytest.raises(ExportError, match=r"w is HALF, the engine's DataType\.FLOAT"):
        refit_engine(built.path, half, graph.with_name("out.plan"), sha256=built.sha256)


@pytest.mark.parametrize(
    ("version", "fail", "message"),
    [
        (
            "10.3.0",
            "refitter",
            "cannot refit with .*operator Gelu of node node_gelu: Unsupported operator: Gelu; nothing was written",
        ),
        ("10.3.0", "refit", "cannot refit .*: TensorRT gave no reason; nothing was written"),
        ("8.6.1", "refit", "cannot refit .*: TensorRT gave no reason; nothing was written"),
        ("10.3.0", "deserialize", "cannot load .*build it again on this device"),
    ],
)
def test_a_refit_that_fails_says_why_and_writes_nothing(
    version: str, fail: str, message: str, graph: Path, install: Install
) -> None:
    install(version)
    built = build(graph)
    install(version, fail=fail)
    with pytest.raises((ExportError, CheckpointError), match=message):
        refit_engine(built.path, graph, graph.with_name("out.plan"), sha256=built.sha256)
    assert not graph.with_name("out.plan").exists()


def test_engines_that_were_not_built_for_it_are_not_refitted(graph: Path, install: Install) -> None:
    install()
    built = build(graph, refittable=False)
    with pytest.raises(ExportError, match="not built to be refitted; build it refittable"):
        refit_engine(built.path, graph, graph.with_name("out.plan"), sha256=built.sha256)
    with pytest.raises(CheckpointError, match="other SHA-256"):
        refit_engine(built.path, graph, graph.with_name("out.plan"), sha256="0" * 64)
    with pytest.raises(CheckpointError, match="unknown ones are not loaded"):
        refit_engine(built.path, graph, graph.with_name("out.plan"))
