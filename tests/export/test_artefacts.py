"""The folder of an export: its manifest, what is rejected, and predictors of it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from autoformer.errors import CheckpointError, DataError, ExportError
from autoformer.export.artefacts import split_for_calibration
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.manifest import Manifest
from autoformer.export.predictor import open_predictor, torch_model
from autoformer.networks.folders import save_subnet
from autoformer.networks.subnet import Subnet
from tests.support.exported_subnets import ARCHITECTURE, CLASSES, PREPROCESSING, graph, network, noise, subnet
from tests.support.exporting import write_export

__all__ = ["graph", "subnet"]  # fixtures

# --- the folder ------------------------------------------------------------------------------------------------------


def test_calibration_and_judgement_are_disjoint_where_there_are_enough() -> None:
    used, judged = split_for_calibration(300, 128)
    assert (len(used), len(judged), set(used) & set(judged)) == (128, 172, set())
    used, judged = split_for_calibration(100, 128)
    assert (len(used), len(judged), set(used) & set(judged)) == (68, 32, set())
    used, judged = split_for_calibration(20, 128)
    assert set(used) == set(judged) == set(range(20))


@pytest.fixture(scope="module")
def folder(subnet: Subnet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artefacts") / "export"
    labels = torch_model(subnet)(noise(96)).argmax(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "tensorrt", None)
        write_export(
            subnet, out, images=noise(96), labels=labels, preprocessing=PREPROCESSING, classes=CLASSES, max_disagreement=0.2
        )
    return out


def test_folder_holds_what_the_manifest_says(folder: Path, subnet: Subnet) -> None:
    manifest = Manifest.load(folder)
    fp32, fp16, int8, engine = manifest.artefacts
    assert sorted(path.name for path in folder.iterdir()) == [
        "class_map.txt", "manifest.json", "model.fp16.onnx", "model.fp16.scopes.json", "model.fp32.onnx",
        "model.fp32.scopes.json", "model.int8.onnx",
    ]  # fmt: skip
    for artefact in (fp32, fp16, int8):
        assert artefact.status == "exported"
        assert manifest.verified_file(folder, artefact).stat().st_size == artefact.bytes
        assert artefact.input_shape == ("batch", 3, 8, 8)
        assert artefact.parity is not None
        assert (artefact.parity.images, artefact.parity.batches) == (32, (1, 2, 5))  # 96 less 64 to calibrate on
    # Labels are the network's own answers, so what is right is what agrees.
    assert fp32.correct == 32
    assert int8.parity is not None
    assert int8.correct == round(32 * int8.parity.top1_agreement)
    assert int8.made["calibration"]["images"] == 64
    assert int8.made["calibration"]["judged_on_other_images"] is True
    assert fp32.made["torch"] == torch.__version__.split("+")[0]
    assert (engine.status, engine.file) == ("skipped", None)
    assert "not installed" in engine.reason or "cannot be loaded" in engine.reason
    assert (manifest.params, manifest.flops) == (sum(p.numel() for p in subnet.parameters()), subnet.cost.flops)
    assert (manifest.architecture, manifest.classes) == (ARCHITECTURE, CLASSES)


def test_int8_that_disagrees_too_often_is_rejected_with_its_figures(
    graph: OnnxGraph, subnet: Subnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_existing_graph(monkeypatch, graph)
    images = ties(subnet, noise(4000))  # images the network itself can hardly decide
    manifest = write_export(
        subnet, tmp_path / "out", images=images, preprocessing=PREPROCESSING, classes=CLASSES, formats=("onnx",),
        max_disagreement=0.0, calibration_images=48, precisions=("fp32", "int8"),
    )  # fmt: skip
    fp32, int8 = manifest.artefacts
    assert (fp32.status, int8.status, int8.file) == ("exported", "rejected", None)
    assert int8.parity is not None
    assert int8.parity.disagreement > 0
    assert "get another class, allowed 0.00%" in int8.reason
    assert not (tmp_path / "out" / "model.int8.onnx").exists()
    with pytest.raises(CheckpointError, match=r"was rejected: .* images"):
        open_predictor(tmp_path / "out", precision="int8")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "making it failed: out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "making it failed: .*allocate memory"),
        (OSError(28, "No space left on device"), "making it failed: .*No space left on device"),
        (CheckpointError("x.onnx cannot be run: bad allocation"), "^x.onnx cannot be run: bad allocation$"),
        (ExportError("nothing to quantise"), "^nothing to quantise$"),
    ],
)
def test_int8_that_cannot_be_made_is_rejected_and_the_rest_is_kept(
    error: Exception, reason: str, graph: OnnxGraph, subnet: Subnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_existing_graph(monkeypatch, graph)

    def quantize(graph: OnnxGraph, images: NDArray[np.float32], path: Path) -> None:
        path.write_bytes(b"half a file")
        raise error

    monkeypatch.setattr("autoformer.export.artefacts.quantize_int8", quantize)
    manifest = write_export(
        subnet, tmp_path / "out", images=noise(8), preprocessing=PREPROCESSING, classes=CLASSES, formats=("onnx",),
        precisions=("fp32", "int8"),
    )  # fmt: skip
    fp32, int8 = manifest.artefacts
    assert (fp32.status, int8.status, int8.file) == ("exported", "rejected", None)
    assert re.search(reason, int8.reason)
    assert not (tmp_path / "out" / "model.int8.onnx").exists()


def test_fp16_that_this_runtime_does_not_load_is_rejected_and_the_rest_is_kept(
    graph: OnnxGraph, subnet: Subnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_existing_graph(monkeypatch, graph)

    def load(path: Path) -> OnnxModel:
        if "fp16" in path.name:
            raise CheckpointError(f"{path} needs a kernel that is not here")
        return OnnxModel(path)

    monkeypatch.setattr("autoformer.export.artefacts.OnnxModel", load)
    manifest = write_export(
        subnet, tmp_path / "out", images=noise(8), preprocessing=PREPROCESSING, classes=CLASSES, formats=("onnx",),
        precisions=("fp32", "fp16"),
    )  # fmt: skip
    assert [(entry.precision, entry.status) for entry in manifest.artefacts] == [("fp32", "exported"), ("fp16", "rejected")]
    assert manifest.artefacts[1].reason.endswith("needs a kernel that is not here")
    assert not (tmp_path / "out" / "model.fp16.onnx").exists()


def test_a_fault_of_our_own_is_not_hidden_as_a_rejection(
    graph: OnnxGraph, subnet: Subnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_existing_graph(monkeypatch, graph)
    monkeypatch.setattr("autoformer.export.artefacts.quantize_int8", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        write_export(
            subnet, tmp_path / "out", images=noise(8), preprocessing=PREPROCESSING, classes=CLASSES, formats=("onnx",),
            precisions=("fp32", "int8"),
        )  # fmt: skip


def use_existing_graph(monkeypatch: pytest.MonkeyPatch, graph: OnnxGraph) -> None:
    """Makes exports take the file of `graph` instead of exporting the same network again."""

    def from_network(network: nn.Module, path: Path, **options: object) -> OnnxGraph:
        path.write_bytes(graph.path.read_bytes())
        return OnnxGraph.open(path)

    monkeypatch.setattr("autoformer.export.artefacts.OnnxGraph.from_network", from_network)


def ties(subnet: Subnet, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The fortieth of `images` whose two best classes are nearest to each other."""
    ordered = np.sort(torch_model(subnet)(images), axis=1)
    return images[np.argsort(ordered[:, -1] - ordered[:, -2])[: len(images) // 40]]


def test_file_that_differs_from_its_network_is_an_error_and_leaves_nothing(
    graph: OnnxGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_existing_graph(monkeypatch, graph)
    other = network()
    with torch.no_grad():
        dict(other.named_parameters())["head.bias"].add_(0.01)
    with pytest.raises(ExportError, match=r"differs from the network it came from: logits differ by 0\.01"):
        write_export(other, tmp_path / "out", images=noise(8), preprocessing=PREPROCESSING, classes=CLASSES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precisions": ("int8",)}, "fp32 must be among them"),
        ({"precisions": ("fp32", "int4")}, r"(?s)precisions.1.*input_value='int4'"),
        ({"formats": ("onnx", "tflite")}, r"(?s)formats.1.*input_value='tflite'"),
        ({"input": "uint8"}, "files of uint8 input are asked for, the images are float32"),
        ({"images": noise(4, 6)}, "images to compare on"),
        ({"labels": np.zeros(3, dtype=np.int64)}, "3 labels for 4 images"),
        ({"classes": CLASSES[:4]}, "4 class names for a network of 5 classes"),
        ({"calibration_images": 0}, "greater than 0"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    changes: dict[str, object], message: str, subnet: Subnet, tmp_path: Path
) -> None:
    request: dict[str, object] = {"images": noise(4), "preprocessing": PREPROCESSING, "classes": CLASSES, **changes}
    with pytest.raises((ExportError, DataError, ValidationError), match=message):
        write_export(subnet, tmp_path / "out", **request)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_predictors_of_folder_file_and_subnet_agree(folder: Path, subnet: Subnet, tmp_path: Path) -> None:
    save_subnet(subnet, tmp_path / "subnet", preprocessing=PREPROCESSING, classes=CLASSES, record={})
    images, expected = noise(70), torch_model(subnet)(noise(70))
    for path, kind, precision in (
        (tmp_path / "subnet", "torch", None),
        (folder, "onnxruntime", None),
        (folder / "model.fp32.onnx", "onnxruntime", None),
        (folder, "onnxruntime", "fp16"),
        (folder, "onnxruntime", "int8"),
    ):
        with open_predictor(path, precision=precision) as predictor:
            assert (predictor.kind, predictor.precision) == (kind, precision or "fp32")
            assert (predictor.preprocessing, predictor.classes) == (PREPROCESSING, CLASSES)
            np.testing.assert_allclose(predictor(images), expected, atol={"int8": 1.0, "fp16": 2e-2}.get(precision or "", 1e-4))


def test_predictor_refuses_everything_else(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="expected the folder of a network"):
            open_predictor(path)
    with pytest.raises(CheckpointError, match="holds no ONNX file of precision 'int4', only fp32, fp16, int8"):
        open_predictor(folder, precision="int4")
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="expected a folder of"):
        open_predictor(tmp_path)
