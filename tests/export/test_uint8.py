"""Files that take uint8 pixels: proved against the network, run by every command, refused where types do not fit."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_sample_image

from autoformer.cli.board.bundle_program import main as board
from autoformer.cli.chain.chain import score_on_test
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, DataError, ExportError
from autoformer.evaluate import Predict, predict_with
from autoformer.export.bundle import write_bundle
from autoformer.export.engines.builder import EngineBuilder
from autoformer.export.engines.engine import Engine
from autoformer.export.expected import ExpectedResults
from autoformer.export.graphs.graph_view import GraphView
from autoformer.export.graphs.model_metadata import ModelMetadata
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.tensorrt_rules import check_model, check_tensorrt
from autoformer.export.manifest import Manifest
from autoformer.export.parity import run_in_batches
from autoformer.export.predictor import open_predictor, torch_model
from autoformer.networks.folders import load_subnet
from autoformer.networks.subnet import Subnet
from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend
from autoformer.space import SearchSpace
from tests.support.commands import command
from tests.support.exporting import write_export
from tests.support.fake_tensorrt import FakeCuda, make_tensorrt

SPACE = SearchSpace.preset("micro", image_size=16, in_chans=3, num_classes=4)
FLOATS = Preprocessing(21, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), network_size=16)
PIXELS = replace(FLOATS, input_type="uint8")
CLASSES = ("cat", "dog", "hare", "ox")


def network() -> Subnet:
    torch.manual_seed(0)
    made = Subnet.from_space(SPACE, SPACE.smallest).eval()
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.3)
    return made


def photo_pieces(size: int = 21) -> NDArray[np.uint8]:
    """Squares cut from a photograph, uint8 [n, size, size, 3]."""
    photo = load_sample_image("china.jpg")
    rows, columns = photo.shape[0] // size, photo.shape[1] // size
    cut = photo[: rows * size, : columns * size].reshape(rows, size, columns, size, 3).swapaxes(1, 2)
    return np.ascontiguousarray(cut.reshape(-1, size, size, 3)[::5])


SHOWN = photo_pieces()


def exported(out: Path, *precisions: str) -> Path:
    labels = torch_model(network())(FLOATS.prepare(SHOWN)).argmax(1)
    write_export(
        network(), out, images=PIXELS.prepare(SHOWN), labels=labels, preprocessing=PIXELS, classes=CLASSES,
        precisions=precisions, formats=("onnx",), calibration_images=64, max_disagreement=0.5,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("uint8") / "export", "fp32")


def test_the_file_gives_the_networks_logits_for_the_pixels_of_a_photograph(folder: Path) -> None:
    model = OnnxModel(folder / "model.fp32.onnx")
    assert (model.input_type, model.image_shape, model.preprocessing) == ("uint8", (3, 21, 21), PIXELS)
    expected = torch_model(network())(FLOATS.prepare(SHOWN))
    given, _ = run_in_batches(model, PIXELS.prepare(SHOWN), (1, 2, 5))
    assert np.abs(expected).max() > 1
    assert np.abs(given - expected).max() < 1e-5 * np.abs(expected).max()
    (artefact,) = Manifest.load(folder).artefacts
    assert artefact.parity is not None
    assert (artefact.input_shape, artefact.correct) == (("batch", 3, 21, 21), artefact.parity.images)


def test_a_cast_is_the_only_user_of_the_input(folder: Path) -> None:
    model = onnx.load(folder / "model.fp32.onnx")
    (entry,) = model.graph.input
    assert entry.type.tensor_type.elem_type == TensorProto.UINT8
    assert [node.op_type for node in model.graph.node if entry.name in node.input] == ["Cast"]
    assert not [finding for finding in check_tensorrt(folder / "model.fp32.onnx", ("10.3", "11.4")) if finding.rule == "types"]


def test_the_comparison_covers_the_fold(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose weights were folded for other colours is another network, and nothing is written."""
    graph = OnnxGraph.open(folder / "model.fp32.onnx")
    monkeypatch.setattr(OnnxGraph, "from_network", lambda *_, **__: graph)
    other = replace(PIXELS, mean=(0.48, 0.45, 0.41))
    with pytest.raises(ExportError, match="differs from the network it came from"):
        write_export(
            network(), tmp_path / "x", images=PIXELS.prepare(SHOWN), preprocessing=other, classes=CLASSES, formats=("onnx",)
        )
    assert not list(tmp_path.iterdir())


def test_images_of_the_wrong_type_are_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.fp32.onnx"
    floats = np.zeros((2, 3, 21, 21), np.float32)
    with pytest.raises(DataError, match=r"takes uint8 images \[batch, 3, 21, 21\], got float32"):
        open_predictor(path)(floats)
    with pytest.raises(DataError, match=r"images to compare on are float32 .* expected uint8"):
        write_export(network(), tmp_path / "x", images=floats, preprocessing=PIXELS, classes=CLASSES)
    with pytest.raises(DataError, match=r"images to compare on are uint8 .* expected float32"):
        write_export(network(), tmp_path / "x", images=PIXELS.prepare(SHOWN), preprocessing=FLOATS, classes=CLASSES)
    with pytest.raises(ExportError, match="input 'int8' cannot be written; choose one of float32, uint8"):
        OnnxGraph.from_network(network(), tmp_path / "x.onnx", input_type="int8")


def test_a_file_whose_preprocessing_gives_another_type_is_refused(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "model.fp32.onnx")
    said = ModelMetadata.from_properties({entry.key: entry.value for entry in model.metadata_props}, "it")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "silent.onnx")
    assert open_predictor(tmp_path / "silent.onnx").preparation(FLOATS) == replace(FLOATS, network_size=None, input_type="uint8")
    assert said.preprocessing is not None
    lie = replace(said, preprocessing=Preprocessing(21, 3, FLOATS.mean, FLOATS.std))
    onnx.helper.set_model_props(model, lie.to_properties())
    onnx.save(model, tmp_path / "lie.onnx")
    with pytest.raises(CheckpointError, match="gives float32 images, its input is uint8"):
        OnnxModel(tmp_path / "lie.onnx")


def test_it_is_timed_on_pixels(folder: Path) -> None:
    with OnnxRuntimeBackend(folder / "model.fp32.onnx", batch=3, threads=1) as backend:
        (given,) = backend._feed.values()
        assert (str(given.dtype), given.shape) == ("uint8", (3, 3, 21, 21))
        assert given.max() > 200
        backend.run()


def test_a_bundle_of_it_verifies_and_predicts_and_tells_triton(folder: Path, tmp_path: Path, capsys: Any) -> None:
    from PIL import Image

    few = SHOWN[:12]
    bundle = write_bundle(
        folder, tmp_path / "bundle", ExpectedResults(name="animals", labels=(0, 1, 2, 3) * 3), pixels=few, program=b""
    )
    assert 'name: "images" data_type: TYPE_UINT8 dims: [ 3, 21, 21 ]' in (bundle / "triton/animals/config.pbtxt").read_text()
    assert "take uint8 pixels, resized and cropped" in (bundle / "README.md").read_text()
    assert json.loads((bundle / "preprocessing.json").read_text())["input_type"] == "uint8"
    assert board(["--bundle", str(bundle), "verify", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["artefacts"]["onnx fp32"]["status"] == "matches"
    image = tmp_path / "piece.png"
    Image.fromarray(few[0]).save(image)
    assert board(["--bundle", str(bundle), "predict", str(image), "--json", "--top", "4"]) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    logits = torch_model(network())(FLOATS.prepare(few[:1]))[0].astype(np.float64)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert {entry["name"]: entry["probability"] for entry in found} == pytest.approx(
        dict(zip(CLASSES, shares, strict=True)), abs=1e-5
    )


@pytest.mark.slow
def test_the_commands_work_on_it_unchanged(finished_run: Path, tmp_path: Path) -> None:
    source, out = finished_run / "finetuned", tmp_path / "export"
    answer = command("export", source, "--out", out, "--input", "uint8", "--precision", "fp32", "--format", "onnx", "--quiet")
    assert answer.code == 0, answer.err
    file = out / "model.fp32.onnx"
    scores, predictions = [], []
    for artefact in (source, out, file):
        scored = command("evaluate", artefact, "--json", "--quiet")
        scores.append({key: value for key, value in json.loads(scored.out).items() if key not in ("artefact", "file")})
        found = json.loads(command("predict", artefact, Path("docs/digit.png"), "--top", 10, "--json").out)
        predictions.append({entry["name"]: entry["probability"] for entry in found[0]["classes"]})
    assert scores[0] == scores[1] == scores[2]
    assert predictions[1] == predictions[2] == pytest.approx(predictions[0], abs=1e-5)
    timed = command("profile", "run", file, "--seconds", 0.05, "--threads", 1, "--json", "--quiet")
    assert timed.code == 0, timed.err
    subnet, preprocessing, _ = load_subnet(source)  # as `run` scores both on the test part
    predictors: dict[str, Predict] = {"torch": predict_with(subnet), "file": open_predictor(file)}
    tested = score_on_test(predictors, load_parts(DataConfig(source="digits")).test, preprocessing, tmp_path)
    assert tested["guesses"]["torch"] == tested["guesses"]["file"]
    refused = command("export", source, "--out", tmp_path / "y", "--input", "int4", "--quiet")
    assert (refused.code, "input" in refused.err, "uint8" in refused.err) == (2, True, True)


@pytest.mark.slow
def test_half_precision_and_int8_take_pixels_too(tmp_path: Path) -> None:
    folder = exported(tmp_path / "export", "fp32", "fp16", "int8")
    assert [artefact.status for artefact in Manifest.load(folder).artefacts] == ["exported"] * 3
    half, int8 = (onnx.load(folder / f"model.{precision}.onnx") for precision in ("fp16", "int8"))
    for model in (half, int8):
        (entry,) = model.graph.input
        assert entry.type.tensor_type.elem_type == TensorProto.UINT8
        assert [node.op_type for node in model.graph.node if entry.name in node.input] == ["Cast"]
    graph = GraphView.of(half)
    (stem,) = [node for node in half.graph.node if node.op_type == "Conv"]
    assert {graph.types[name] for name in (*stem.input, *stem.output)} == {TensorProto.FLOAT}
    assert "patch_embed.proj" in Manifest.load(folder).artefacts[1].made["kept_in_fp32"]
    products = {graph.types[node.input[0]] for node in half.graph.node if node.op_type == "Gemm"}
    assert products == {TensorProto.FLOAT16}
    assert not [finding for finding in check_tensorrt(folder / "model.int8.onnx") if finding.rule == "quantisation"]
    # The resizing of pixels is no layer: it stays exact.
    before = int8.graph.node[: next(i for i, node in enumerate(int8.graph.node) if node.op_type == "Conv")]
    resizing = [node for node in before if node.op_type == "MatMul"]
    makers = {name: node.op_type for node in int8.graph.node for name in node.output}
    assert len(resizing) == 2
    assert "DequantizeLinear" not in {makers.get(name) for node in resizing for name in node.input}
    levels = {finding.level for name in ("fp16", "int8") for finding in check_tensorrt(folder / f"model.{name}.onnx", ("10.3",))}
    assert "fails" not in levels


# --- TensorRT ----------------------------------------------------------------------------------------------------

WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def graph_of(*nodes: onnx.NodeProto, out: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """uint8 images [batch, 1, 2, 2] to `logits` [batch, 3]."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 1, 2, 2])
    logits = helper.make_tensor_value_info("logits", out, None if out != TensorProto.FLOAT else ["batch", 3])
    body = helper.make_graph(list(nodes), "g", [images], [logits], [numpy_helper.from_array(WEIGHT, "w")])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=kind, **attributes)


PRODUCT = (node("Flatten", "v", "x"), node("MatMul", "x w", "logits"))


@pytest.mark.parametrize("version", ["8.6", "10.3", "11.4"])
def test_bytes_are_read_cast_and_written_and_nothing_else(version: str) -> None:
    def said(*nodes: onnx.NodeProto, out: int = TensorProto.FLOAT) -> set[tuple[str, str]]:
        return {(found.level, found.where) for found in check_model(graph_of(*nodes, out=out), (version,))}

    assert said(node("Cast", "images", "v", to=TensorProto.FLOAT), *PRODUCT) == set()
    moved = (node("Identity", "images", "m"), node("Cast", "m", "v", to=TensorProto.FLOAT), *PRODUCT)
    assert said(*moved) == {("fails", "images"), ("fails", "m")}
    counted = (node("Cast", "images", "v", to=TensorProto.FLOAT), node("Shape", "images", "n"), *PRODUCT)
    assert said(*counted) == {("risk" if version == "11.4" else "fails", "images")}  # as TensorRT-RTX answers, if undocumented
    whole = (node("Cast", "images", "i", to=TensorProto.INT32), node("Cast", "i", "v", to=TensorProto.FLOAT), *PRODUCT)
    assert said(*whole) == {("risk", "images")}
    bytes_out = (node("Cast", "images", "v", to=TensorProto.FLOAT), node("Cast", "v", "logits", to=TensorProto.UINT8))
    assert said(*bytes_out, out=TensorProto.UINT8) == set()


def test_an_engine_takes_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, bindings = FakeCuda(), ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt("10.3.0", cuda))
    onnx.save(graph_of(node("Cast", "images", "v", to=TensorProto.FLOAT), *PRODUCT), tmp_path / "model.onnx")
    built = EngineBuilder().build(tmp_path / "model.onnx", tmp_path / "model.plan")
    pixels = np.random.default_rng(1).integers(0, 256, (5, 1, 2, 2), np.uint8)
    with Engine.load(tmp_path / "model.plan", sha256=built.sha256) as engine:
        assert engine.input_type == "uint8"
        np.testing.assert_allclose(engine(pixels), pixels.reshape(5, 4).astype(np.float32) @ WEIGHT, rtol=1e-5)
        assert engine.infer_timed() > 0
        with pytest.raises(DataError, match="takes uint8 images"):
            engine(pixels.astype(np.float32))
    assert not cuda.memory
