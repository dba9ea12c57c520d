"""Any network becomes files by the same commands, of the operator set and the batch that a target wants."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config

from autoformer.cli.board.bundle_program import main as board
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError
from autoformer.export.config import ExportConfig
from autoformer.export.graphs.attention_pattern import attentions
from autoformer.export.graphs.graph_view import GraphView
from autoformer.export.graphs.onnx_graph import OnnxGraph, opset_of
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.manifest import Manifest
from autoformer.export.parity import filled_up
from autoformer.export.predictor import open_predictor
from autoformer.networks.subnet import Subnet
from autoformer.profiling.backends.of_artefacts import fixed_batch
from autoformer.space import SearchSpace
from tests.support.commands import command
from tests.support.exporting import write_export

SPACE = SearchSpace.preset("micro", image_size=16, in_chans=3, num_classes=4)
PREPROCESSING = Preprocessing(image_size=16, in_chans=3, mean=(0.5,) * 3, std=(0.2,) * 3)


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timm") / "folder"
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3, img_size=32, depth=1)
    timm.models.save_for_hf(
        model, str(folder), safe_serialization=True, model_config={"label_names": ["circle", "cross", "stripes"]}
    )
    return folder


@pytest.fixture(scope="module")
def exported(timm_folder: Path, image_folder: Path) -> Path:
    out = timm_folder.parent / "export"
    words = ("--data", image_folder, "--out", out, "--precision", "fp32", "--opset", "17", "--batch", "4", "--format", "onnx")
    answer = command("export", timm_folder, *words, "--quiet")
    assert answer.code == 0, answer.err
    return out


def test_a_network_of_timm_is_exported_in_the_operator_set_and_batch_asked_for(exported: Path) -> None:
    model = onnx.load(exported / "model.fp32.onnx")
    assert opset_of(model) == 17
    assert [entry.version for entry in model.opset_import] == [17]
    (given,) = model.graph.input
    assert [dim.dim_value for dim in given.type.tensor_type.shape.dim] == [4, 3, 32, 32]
    manifest = Manifest.load(exported)
    (artefact,) = manifest.artefacts
    assert (artefact.batch, artefact.made["opset"]) == (4, 17)
    assert (manifest.network, manifest.architecture) == ("timm:test_vit", None)


def test_its_attention_has_the_form_that_runtimes_fuse(exported: Path) -> None:
    found = attentions(GraphView.of(onnx.load(exported / "model.fp32.onnx")))
    assert [attention.objections for attention in found] == [("it computes in float32; only half precision and int8 are fused",)]
    operators = [node.op_type for node in onnx.load(exported / "model.fp32.onnx").graph.node]
    assert operators.count("Softmax") == 1
    assert operators.count("LayerNormalization") == 3
    assert operators.count("Erf") == 1


def test_the_file_and_the_folder_get_the_accuracy_that_timm_gets(exported: Path, timm_folder: Path, image_folder: Path) -> None:
    import autoformer.networks  # noqa: F401

    model = timm.create_model(f"local-dir:{timm_folder}", pretrained=True, img_size=32).eval()
    config = {**resolve_data_config({}, model=model), "input_size": (3, 32, 32)}
    transform = create_transform(**config)
    part = load_parts(DataConfig(source=str(image_folder))).search
    with torch.no_grad():
        right = [int(model(transform(part[i][0])[None]).argmax()) == part[i][1] for i in range(len(part))]
    for words in ((exported,), (timm_folder, "--data", image_folder)):
        answer = command("evaluate", *words, "--json", "--quiet")
        assert answer.code == 0, answer.err
        assert (answer.json["correct"], answer.json["images"]) == (sum(right), len(right))


def test_its_bundle_is_verified_on_a_device_and_names_it(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = command("bundle", exported, "--out", tmp_path / "bundle", "--name", "shapes", "--images", "5")
    assert answer.code == 0, answer.err
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "timm:test\\_vit, a network of" in card
    assert "vision transformer" not in card
    assert "max_batch_size: 0" in (tmp_path / "bundle" / "triton" / "shapes" / "config.pbtxt").read_text()
    assert board(["--bundle", str(tmp_path / "bundle"), "verify", "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)["artefacts"]["onnx fp32"]
    assert (verified["status"], verified["images"]) == ("matches", 5)
    assert board(["--bundle", str(tmp_path / "bundle"), "bench", "--json", "--seconds", "0.01"]) == 0
    assert json.loads(capsys.readouterr().out)["measurements"]["onnx fp32"]["batch"] == 4


@pytest.mark.slow
def test_a_bundle_of_a_network_exports_it_first(timm_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    words = ("--data", image_folder, "--out", tmp_path / "bundle", "--quiet")
    answer = command("bundle", timm_folder, *words)
    assert answer.code == 0, answer.err
    manifest = Manifest.load(tmp_path / "bundle")
    assert {artefact.precision for artefact in manifest.artefacts if artefact.file} == {"fp32", "fp16", "int8"}
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text())["name"] == "folder"
    assert board(["--bundle", str(tmp_path / "bundle"), "verify"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--opset", "26"), "less than or equal to 25"),
        (("--opset", "16"), "greater than or equal to 17"),
        (("--batch", "many"), "export: batch = 'many'"),
        (("--batch", "0"), "export: batch = 0"),
        ((), "brings no images; give --data"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(
    timm_folder: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    assert said in command("export", timm_folder, "--out", tmp_path / "out", *words).error
    assert not (tmp_path / "out").exists()


def test_an_exported_file_is_no_network_to_export(exported: Path, tmp_path: Path) -> None:
    error = command("export", exported / "model.fp32.onnx", "--out", tmp_path / "out").error
    assert "exported already; give the network it was made from" in error


def test_a_recipe_says_dynamic_or_nothing_for_any_batch() -> None:
    assert ExportConfig.model_validate({"batch": "dynamic"}).batch is None
    assert ExportConfig.model_validate({"batch": "8"}).batch == 8
    assert (ExportConfig().batch, ExportConfig().opset) == (None, 20)


def test_a_recipe_whose_batches_contradict_each_other_is_refused(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
    error = command("run", recipe, "--out", tmp_path / "out", "--set", "export.batch=4").error
    assert "profile.batch must be the same, got 1" in error


@pytest.mark.slow
def test_int8_is_calibrated_and_judged_in_a_fixed_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Subnet.from_space(SPACE, SPACE.smallest).eval()
    images = np.random.default_rng(0).standard_normal((11, 3, 16, 16)).astype(np.float32)
    manifest = write_export(
        network, tmp_path / "export", images=images, preprocessing=PREPROCESSING, classes="abcd", precisions=("fp32", "int8"),
        formats=("onnx",), batch=4, max_disagreement=1.0,
    )  # fmt: skip
    assert [artefact.batch for artefact in manifest.artefacts] == [4, 4]
    path = tmp_path / "export" / "model.int8.onnx"
    assert OnnxGraph.open(path).batch == fixed_batch(str(path)) == 4
    with open_predictor(path) as predictor:
        found = predictor(images)
    single = OnnxModel(path)(images[:4])
    assert found.shape == (11, 4)
    np.testing.assert_allclose(found[:4], single, rtol=0, atol=1e-6)
    answer = command("profile", "run", tmp_path / "export", "--seconds", "0.01", "--json", "--quiet")
    assert answer.code == 0, answer.err
    assert [taken["batch"] for taken in answer.json["measurements"]] == [4, 4]


@pytest.mark.slow
@pytest.mark.parametrize(("opset", "batch"), [(17, 3), (18, None), (19, 3), (21, None), (23, None), (25, None)])
def test_every_operator_set_gives_files_that_say_so(tmp_path: Path, opset: int, batch: int | None) -> None:
    torch.manual_seed(0)
    network = Subnet.from_space(SPACE, SPACE.smallest).eval()
    images = np.random.default_rng(0).standard_normal((33, 3, 16, 16)).astype(np.float32)
    manifest = write_export(
        network, tmp_path / "export", images=images, preprocessing=PREPROCESSING, classes="abcd", formats=("onnx",),
        opset=opset, batch=batch, max_disagreement=1.0, calibration_images=16,
    )  # fmt: skip
    assert [artefact.status for artefact in manifest.artefacts] == ["exported"] * 3
    for artefact in manifest.artefacts:
        graph = OnnxGraph.open(tmp_path / "export" / str(artefact.file))
        assert (graph.opset, graph.batch, artefact.batch) == (opset, batch, batch)


@pytest.mark.slow
def test_an_int8_file_that_nothing_runs_is_rejected_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(OnnxModel):
        def __init__(self, path: Path, *words: Any) -> None:
            if path.parent.name.startswith("autoformer-int8-"):
                raise CheckpointError("it is truncated or not an ONNX file that runs here: no such kernel")
            super().__init__(path, *words)

    monkeypatch.setattr("autoformer.export.graphs.quantization.OnnxModel", Refuses)
    network, images = Subnet.from_space(SPACE, SPACE.smallest).eval(), np.ones((4, 3, 16, 16), np.float32)
    manifest = write_export(
        network, tmp_path / "export", images=images, preprocessing=PREPROCESSING, classes="abcd", precisions=("fp32", "int8"),
        formats=("onnx",), batch=2,
    )  # fmt: skip
    fp32, int8 = manifest.artefacts
    assert (fp32.status, int8.status, int8.file) == ("exported", "rejected", None)
    assert int8.reason.startswith(
        "ONNX Runtime does not run the quantised graph of opset 20 and the fixed batch 2 (no such kernel)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit_relpos"])
def test_networks_that_are_no_plain_transformers_are_exported_too(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4).eval()
    size = model.pretrained_cfg["input_size"][-1]
    images = np.random.default_rng(0).standard_normal((5, 3, size, size)).astype(np.float32)
    manifest = write_export(
        model, tmp_path / "export", images=images, preprocessing=replace(PREPROCESSING, image_size=size), classes="abcd",
        formats=("onnx",), max_disagreement=1.0,
    )  # fmt: skip
    assert [artefact.status for artefact in manifest.artefacts] == ["exported"] * 3
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(OnnxModel(tmp_path / "export" / "model.fp32.onnx")(images), expected, rtol=0, atol=1e-5)


def test_calls_are_filled_up_and_the_copies_dropped() -> None:
    sizes: list[int] = []

    def model(images: Any) -> Any:
        sizes.append(len(images))
        return images[:, :, 0, 0] * 2

    images = np.arange(7, dtype=np.float32).reshape(7, 1, 1, 1)
    np.testing.assert_array_equal(filled_up(model, 3)(images)[:, 0], 2 * np.arange(7))
    assert sizes == [3, 3, 3]
    assert filled_up(model, None) is model


def test_a_file_without_a_batch_of_its_own_is_measured_one_image_at_a_time(tmp_path: Path) -> None:
    assert fixed_batch(str(tmp_path)) is None
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="expected an ONNX file"):
        fixed_batch(str(tmp_path / "broken.onnx"))
