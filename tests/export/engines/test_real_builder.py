"""What NVIDIA's real parser and builder do with our files: TensorRT-RTX, which builds without a GPU.

The strict stand-in of the other tests says the same of TensorRT 8.6 to 11; here nothing stands in. To run an engine would need an
RTX GPU.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, ExportError
from autoformer.export.engines.artefact import engine_artefact
from autoformer.export.engines.build_progress import OnProgress
from autoformer.export.engines.builder import EngineBuilder, EngineConfig
from autoformer.export.engines.trial import TrialProcess
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.manifest import Artefact, Manifest
from autoformer.files import write_json
from autoformer.profiling.insides.built_elsewhere import look_inside_any
from autoformer.profiling.insides.engine_insides import plans_of
from tests.support.engines import SPACE, small_subnet, write_graph
from tests.support.exporting import write_export
from tests.support.real_tensorrt import needs_real_tensorrt

ADA = EngineConfig(format="tensorrt-rtx", gpus=("8.9",))
FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


@pytest.fixture(autouse=True)
def _real() -> None:
    needs_real_tensorrt()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own network in all precisions, with engines for two GPUs and two profiles."""
    needs_real_tensorrt()
    out = tmp_path_factory.mktemp("real") / "export"
    preprocessing = Preprocessing(image_size=8, in_chans=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    write_export(
        small_subnet(), out, images=preprocessing.normalise(pixels), preprocessing=preprocessing,
        classes=tuple(map(str, range(SPACE.num_classes))), precisions=("fp32", "tf32", "fp16", "int8"),
        formats=("onnx", "tensorrt-rtx"), gpus=("RTX 4090", "sm120"), engine_batches=("1", "1:8:32"), max_disagreement=1.0,
        max_class_loss=1.0,
    )  # fmt: skip
    return out


def graph_of(
    path: Path, nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto],
    stored: Sequence[TensorProto] = (),
) -> Path:  # fmt: skip
    body = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(stored))
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_every_precision_is_built_for_gpus_that_are_not_here(exported: Path) -> None:
    made = {one.precision: one for one in Manifest.load(exported).artefacts if one.format == "tensorrt-rtx"}
    assert {name: one.status for name, one in made.items()} == dict.fromkeys(("fp32", "tf32", "fp16", "int8"), "built")
    sources = {one.precision: one.sha256 for one in Manifest.load(exported).artefacts if one.format == "onnx"}
    for name, one in made.items():
        assert one.file == f"model.{name}.rtx.plan"
        assert (exported / one.file).stat().st_size == one.bytes
        assert one.made["config"]["gpus"] == ["8.9", "12.0"]
        assert one.made["config"]["profiles"] == [[1, 1, 1], [1, 8, 32]]
        assert one.made["graph_sha256"] == sources[name.replace("tf32", "fp32")]
        assert one.reason.endswith("for sm89, sm120; not run here, so verify it on its device")
        assert one.parity is None
        assert one.input_name == "images"


@pytest.mark.parametrize("asked", ["fp32", "fp16", "int8"])
def test_an_engine_of_another_precision_than_the_file_is_refused(asked: str, exported: Path, tmp_path: Path) -> None:
    for other in {"fp32", "fp16", "int8"} - {asked}:
        with pytest.raises(ExportError, match=f"computes in {other}, asked for an engine of {asked}"):
            EngineBuilder(EngineConfig(format="tensorrt-rtx", precision=asked)).build(
                exported / f"model.{other}.onnx", tmp_path / "x.plan"
            )


def test_parser_errors_name_operator_node_and_module(tmp_path: Path) -> None:
    nodes = (
        helper.make_node("Unique", ["images"], ["u"], name="node_unique"),
        helper.make_node("Flatten", ["u"], ["x"], name="flatten"),
        helper.make_node("MatMul", ["x", "w"], ["logits"], name="product"),
    )
    graph = write_graph(tmp_path / "model.onnx", nodes=nodes)
    write_json({"node_unique": "blocks.0.mlp.act"}, tmp_path / "model.scopes.json")
    with pytest.raises(ExportError) as caught:
        EngineBuilder(ADA).build(graph, tmp_path / "x.plan")
    assert str(caught.value).endswith("operator Unique of node node_unique (module blocks.0.mlp.act): unsupported node")
    assert not (tmp_path / "x.plan").exists()


def test_a_builder_that_answers_none_gives_its_reason(tmp_path: Path) -> None:
    images, logits = helper.make_tensor_value_info("x", FLOAT, ["b", 3]), helper.make_tensor_value_info("y", FLOAT, None)
    shape = numpy_helper.from_array(np.array([5, 7], np.int64), "s")
    graph = graph_of(tmp_path / "m.onnx", [helper.make_node("Reshape", ["x", "s"], ["y"], name="r")], [images], [logits], [shape])
    EngineBuilder(ADA).read(graph)  # the parser has nothing against it
    with pytest.raises(ExportError, match=r"TensorRT-RTX \S+ cannot build an engine from .*m\.onnx: .*would change volume"):
        EngineBuilder(ADA).build(graph, tmp_path / "x.plan")
    with pytest.raises(ExportError, match=r"cannot build an engine from .*workspace"):
        EngineBuilder(EngineConfig(format="tensorrt-rtx", gpus=("8.9",), workspace_mib=1)).build(
            write_graph(tmp_path / "g.onnx"), tmp_path / "x.plan"
        )
    with pytest.raises(ExportError, match=r"cannot build an engine from .*Turing"):  # which has no float32 product in RTX
        EngineBuilder(EngineConfig(format="tensorrt-rtx", gpus=("7.5",))).build(tmp_path / "g.onnx", tmp_path / "x.plan")
    assert not (tmp_path / "x.plan").exists()


def test_files_that_an_engine_does_not_run_are_refused_and_tried_all_the_same(tmp_path: Path) -> None:
    first, second, out = (helper.make_tensor_value_info(name, FLOAT, ["b", 3]) for name in ("x", "z", "y"))
    two = graph_of(tmp_path / "two.onnx", [helper.make_node("Add", ["x", "z"], ["y"])], [first, second], [out])
    with pytest.raises(ExportError, match="has 2 inputs and 1 outputs; expected one of each"):
        EngineBuilder(ADA).build(two, tmp_path / "two.plan")
    assert EngineBuilder(ADA).build(two, tmp_path / "two.plan", any_inputs=True).path.stat().st_size > 0
    whole = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", 3]) for name in ("x", "y")]
    numbers = graph_of(tmp_path / "n.onnx", [helper.make_node("Abs", ["x"], ["y"])], whole[:1], whole[1:])
    with pytest.raises(ExportError, match=r"takes images of .*INT64; expected float32 or uint8"):
        EngineBuilder(ADA).build(numbers, tmp_path / "n.plan")
    opened = helper.make_tensor_value_info("x", FLOAT, ["b", "h"])
    loose = graph_of(tmp_path / "o.onnx", [helper.make_node("Relu", ["x"], ["y"])], [opened], [out])
    with pytest.raises(ExportError, match=r"input x of .* has open sizes beside the batch"):
        EngineBuilder(ADA).build(loose, tmp_path / "o.plan")


def test_pixels_and_a_fixed_batch_are_taken(tmp_path: Path) -> None:
    pixels, logits = helper.make_tensor_value_info("x", UINT8, [4, 3]), helper.make_tensor_value_info("y", FLOAT, [4, 3])
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=FLOAT), helper.make_node("Relu", ["f"], ["y"])]
    built = EngineBuilder(ADA).build(graph_of(tmp_path / "m.onnx", nodes, [pixels], [logits]), tmp_path / "x.plan")
    assert built.config.profiles == ((4, 4, 4),)


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 1024)).astype(np.float32)
    graph = write_graph(tmp_path / "model.onnx", weight=weight)
    model = onnx.load(graph)
    onnx.save(model, graph, save_as_external_data=True, location="model.data", size_threshold=0)
    built = EngineBuilder(ADA).build(graph, tmp_path / "x.plan")
    assert built.path.stat().st_size > weight.nbytes, "the plan holds them"
    (tmp_path / "model.data").unlink()
    with pytest.raises(CheckpointError, match=r"model\.data"):
        EngineBuilder(ADA).build(graph, tmp_path / "x.plan")


def test_progress_is_told_and_a_signal_stops_the_build(tmp_path: Path) -> None:
    graph, told = write_graph(tmp_path / "g.onnx"), list[tuple[str, int, int]]()
    EngineBuilder(ADA).build(graph, tmp_path / "a.plan", on_progress=lambda *words: told.append(words))
    phases = dict.fromkeys(phase for phase, _, _ in told)
    assert len(phases) > 3
    assert all(0 <= done <= steps for _, done, steps in told)
    assert told[-1][1] == told[-1][2]

    def stop(phase: str, done: int, steps: int) -> None:
        if len(told) < 1000:
            told.extend(told)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            EngineBuilder(ADA).build(graph, tmp_path / "b.plan", on_progress=stop)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "b.plan").exists()

    def fail(phase: str, done: int, steps: int) -> None:
        raise BrokenPipeError("nobody reads the progress")

    with pytest.raises(BrokenPipeError):
        EngineBuilder(ADA).build(graph, tmp_path / "b.plan", on_progress=fail)
    assert not (tmp_path / "b.plan").exists()


def test_what_a_gpu_cannot_do_is_said_with_a_remedy_and_without_folders_of_ours(tmp_path: Path) -> None:
    graph = OnnxGraph.from_network(small_subnet(), tmp_path / "model.onnx").path
    source = Artefact("onnx", "fp32", "exported", "equal", graph.name, "0", 1)
    found = engine_artefact(
        source, graph, tmp_path / "m.plan", replace(ADA, gpus=("7.5",)), lambda model, batches: pytest.fail("it ran")
    )
    assert (found.status, found.file) == ("rejected", None)
    assert "cannot build an engine from model.onnx: " in found.reason
    assert str(tmp_path) not in found.reason
    assert found.reason.endswith("give it a file in fp16 alone (--precision fp16)")


def test_the_twin_of_an_engine_for_elsewhere_has_its_precision_and_its_profiles(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    ask = TrialProcess._ask

    def listening(self: TrialProcess, question: Mapping[str, Any], tell: OnProgress) -> dict[str, Any] | str:
        asked.append(dict(question["config"]))
        return ask(self, question, tell)

    monkeypatch.setattr(TrialProcess, "_ask", listening)
    for plan, artefact, graph in plans_of(exported / "model.tf32.rtx.plan"):
        assert look_inside_any(plan, artefact, graph).is_twin
        assert asked == [artefact.made["config"] | {"detailed": True}]
