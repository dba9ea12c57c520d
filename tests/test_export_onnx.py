"""ONNX files: equal to their network, of the expected structure, free of local paths, refused when damaged."""

from __future__ import annotations

import contextlib
import json
import random
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autoformer.architecture import Architecture
from autoformer.checkpoint import tensors_digest
from autoformer.errors import CheckpointError, DataError, ExportError, MissingPackageError
from autoformer.export.artefacts import export_network, split_for_calibration
from autoformer.export.manifest import Manifest
from autoformer.export.onnx_graph import OnnxGraph, describe
from autoformer.export.onnx_model import OnnxModel
from autoformer.export.parity import compare_models
from autoformer.export.predictor import open_predictor, torch_model
from autoformer.export.quantization import Calibration, qdq_objections, quantize_int8
from autoformer.preprocessing import Preprocessing
from autoformer.space import SearchSpace
from autoformer.subnet import Attention, Subnet
from autoformer.subnet_folder import save_subnet

SPACE = SearchSpace(
    name="nano", embed_dims=(32, 48), depths=(1, 2, 3), num_heads=(1, 2), mlp_ratios=(1.0, 1.5), head_dim=16,
    image_sizes=(6, 8), patch_size=2, in_chans=3, num_classes=5, max_relative_position=2,
)  # fmt: skip
ARCHITECTURE = Architecture(embed_dim=48, num_heads=(2,), mlp_ratio=(1.5,), image_size=8)
PREPROCESSING = Preprocessing(image_size=8, in_chans=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
CLASSES = ("ash", "beech", "elm", "lime", "oak")


def network(architecture: Architecture = ARCHITECTURE) -> Subnet:
    torch.manual_seed(0)
    subnet = Subnet.from_space(SPACE, architecture).eval()
    for name, parameter in subnet.named_parameters():  # fresh networks are near zero; these have something to get wrong
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.3)
    return subnet


def noise(count: int, side: int = 8, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, side, side), dtype=np.float32)


@pytest.fixture(scope="module")
def subnet() -> Subnet:
    return network()


@pytest.fixture(scope="module")
def graph(subnet: Subnet, tmp_path_factory: pytest.TempPathFactory) -> OnnxGraph:
    metadata = describe(subnet, preprocessing=PREPROCESSING, classes=CLASSES).to_properties()
    return OnnxGraph.from_network(subnet, tmp_path_factory.mktemp("onnx") / "model.onnx", metadata=metadata)


def check_parity(subnet: Subnet, graph: OnnxGraph) -> None:
    parity = compare_models(torch_model(subnet), OnnxModel(graph.path), noise(16, graph.image_shape[1]), (1, 2, 5))
    assert parity.batches == (1, 2, 5)
    assert parity.passed, parity.reason
    assert parity.max_abs < 1e-4


def test_onnx_gives_the_logits_of_the_subnet_at_every_batch(subnet: Subnet, graph: OnnxGraph) -> None:
    check_parity(subnet, graph)
    assert subnet(torch.from_numpy(noise(8))).abs().max() > 0.5, "logits near zero would prove nothing"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_onnx_gives_the_logits_of_random_subnets(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    space = replace(
        SPACE, relative_position=seed % 4 != 3, absolute_position=seed % 5 != 4, pooling="token" if seed % 3 == 2 else "mean"
    )
    torch.manual_seed(seed)
    chosen = Subnet.from_space(space, space.sample(rng)).eval()
    check_parity(chosen, OnnxGraph.from_network(chosen, tmp_path / "model.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 18, 19, 21, 23])
def test_every_opset_is_written_as_asked_and_equal(opset: int, subnet: Subnet, tmp_path: Path) -> None:
    graph = OnnxGraph.from_network(subnet, tmp_path / "model.onnx", opset=opset)
    model = onnx.load(graph.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    check_parity(subnet, graph)


@pytest.mark.parametrize("opset", [16, 26])
def test_opsets_that_the_exporter_would_replace_are_refused(opset: int, subnet: Subnet, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="from 17 to 25"):
        OnnxGraph.from_network(subnet, tmp_path / "model.onnx", opset=opset)


def test_fixed_batch_takes_that_batch_only(tmp_path: Path) -> None:
    small = network(Architecture(embed_dim=32, num_heads=(1,), mlp_ratio=(1.0,), image_size=6)).train()
    for parameter in small.blocks.parameters():
        parameter.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    graph = OnnxGraph.from_network(small, tmp_path / "one.onnx", batch=3)
    assert graph.input_shape == (3, 3, 6, 6)
    # The network is as it was: weights, training mode, what is trained, the form of attention.
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
    assert all(module.training for module in small.modules())
    assert {parameter.requires_grad for parameter in small.blocks.parameters()} == {False}
    assert small.head.weight.requires_grad
    assert [module.form for module in small.modules() if isinstance(module, Attention)] == ["auto"]

    model = OnnxModel(graph.path)
    images = noise(7, 6)
    small.eval()
    expected = torch_model(small)(images)
    np.testing.assert_allclose(model(images[:3]), expected[:3], atol=1e-4)
    with pytest.raises(DataError, match=r"takes float32 images \[3, 3, 6, 6\], got float32 \[7, 3, 6, 6\]"):
        model(images)
    with open_predictor(graph.path) as predictor:  # fills the last batch up
        np.testing.assert_allclose(predictor(images), expected, atol=1e-4)


def test_structure_is_what_runtimes_fuse(subnet: Subnet, graph: OnnxGraph) -> None:
    model = onnx.load(graph.path)
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["LayerNormalization"] == sum(isinstance(module, nn.LayerNorm) for module in subnet.modules()) == 3
    assert operators["Gelu"] == sum(isinstance(module, nn.GELU) for module in subnet.modules()) == 1
    assert operators["Softmax"] == 1
    assert not operators["Erf"]
    assert model.ir_version <= 10
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["images", "logits"]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 8, 8]
    weights = sum(parameter.numel() for parameter in subnet.parameters())
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert sum(int(np.prod(tensor.dims)) for tensor in floats) <= 1.01 * weights  # tables are stored once, not expanded
    tokens = 17
    assert max(int(np.prod(tensor.dims)) for tensor in floats) < tokens * tokens * 16 * 2


def test_file_holds_no_local_path_and_scopes_stand_beside_it(graph: OnnxGraph) -> None:
    content = graph.path.read_bytes()
    for secret in (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent), "site-packages", ".py", "pkg.torch"):
        assert secret.encode() not in content
    scopes = json.loads(graph.scopes_path.read_text())
    assert set(scopes) == {node.name for node in onnx.load(graph.path).graph.node}
    assert {"patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.mlp.fc2", "blocks.0.norm1", "norm", "head"} <= set(scopes.values())


def test_metadata_says_what_the_network_is(subnet: Subnet, graph: OnnxGraph) -> None:
    for metadata in (OnnxGraph.open(graph.path).metadata, OnnxModel(graph.path).metadata):
        assert metadata.architecture == ARCHITECTURE
        assert metadata.preprocessing == PREPROCESSING
        assert metadata.classes == CLASSES
        assert metadata.precision == "fp32"
        assert metadata.weights_digest == tensors_digest(subnet.state_dict())
    assert OnnxGraph.open(graph.path) == graph


def test_export_prints_and_warns_nothing(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = network(Architecture(embed_dim=32, num_heads=(1,), mlp_ratio=(1.0,), image_size=6))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        OnnxGraph.from_network(small, tmp_path / "model.onnx", batch=1)
    assert (capfd.readouterr(), caught) == (("", ""), [])


class Strange(nn.Module):
    """Not a classifier of images: gives a list."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images * self.weight]


class ByHand(nn.Module):
    """Writes its normalisation out, and keeps a constant larger than its weights."""

    def __init__(self, constant: int) -> None:
        super().__init__()
        self.norm, self.head, self.constant = nn.LayerNorm(4), nn.Linear(4, 2), constant

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.norm(images.flatten(1))
        waste = torch.arange(self.constant, dtype=torch.float32).sin()
        return self.head(x) + waste.sum() * x.mean() * 0 + (waste * x[:, :1]).sum(1, keepdim=True) * 0  # type: ignore[no-any-return]


def test_networks_that_cannot_be_exported_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match="only classifiers"):
        OnnxGraph.from_network(Strange(), path, image_shape=(1, 2, 2))
    with pytest.raises(ExportError, match="give image_shape"):
        OnnxGraph.from_network(Strange(), path)
    with pytest.raises(ExportError, match=r"larger than any weight|stored twice"):
        OnnxGraph.from_network(ByHand(9000), path, image_shape=(1, 2, 2))
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_files_are_one_clear_line(graph: OnnxGraph, tmp_path: Path) -> None:
    whole = graph.path.read_bytes()
    flipped = bytearray(whole)
    flipped[:40] = bytes(40)
    cases = {
        "missing.onnx": (None, "does not exist"),
        "empty.onnx": (b"", "truncated|not an ONNX file"),
        "text.onnx": (b"hello, I am no model", "not an ONNX file"),
        "half.onnx": (whole[: len(whole) // 2], "truncated"),
        "flipped.onnx": (bytes(flipped), "not an ONNX file"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        for read in (OnnxGraph.open, OnnxModel, open_predictor):
            with pytest.raises(CheckpointError, match=message) as caught:
                read(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)


def test_other_models_are_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])
    out = helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])
    model = helper.make_model(
        helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [out]),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    for read in (OnnxGraph.open, OnnxModel):
        with pytest.raises(CheckpointError, match="expected one float32 or uint8 input"):
            read(path)


def test_metadata_that_cannot_be_read_is_named(graph: OnnxGraph, tmp_path: Path) -> None:
    model = onnx.load(graph.path)
    for entry in model.metadata_props:
        if entry.key == "autoformer.preprocessing":
            entry.value = '{"image_size": 8}'
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=r"autoformer\.preprocessing that cannot be read"):
        OnnxModel(path)


def test_wrong_input_and_absent_provider_are_named(graph: OnnxGraph) -> None:
    model = OnnxModel(graph.path, threads=1)
    with pytest.raises(DataError, match=r"takes float32 images \[batch, 3, 8, 8\], got float64 \[1, 3, 8, 8\]"):
        model(noise(1).astype(np.float64))
    with pytest.raises(DataError, match=r"got float32 \[3, 8, 8\]"):
        model(noise(1)[0])
    with pytest.raises(MissingPackageError, match=r"only .*cpu"):
        OnnxModel(graph.path, provider="npu")


def test_absent_onnxruntime_names_what_to_install(graph: OnnxGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match="pip install onnxruntime"):
        OnnxModel(graph.path)


# --- int8 ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int8(graph: OnnxGraph) -> OnnxGraph:
    quantised, trials = quantize_int8(graph, noise(48), graph.path.with_name("int8.onnx"))
    assert [trial.disagreement for trial in trials] == sorted(trial.disagreement for trial in trials)
    assert len(trials) == 4
    return quantised


def test_int8_file_is_legal_for_tensorrt_and_keeps_its_metadata(graph: OnnxGraph, int8: OnnxGraph) -> None:
    assert qdq_objections(int8.path) == []
    assert replace(int8.metadata, precision="fp32") == graph.metadata
    assert int8.metadata.precision == "int8"
    assert int8.path.stat().st_size < graph.path.stat().st_size
    assert [path.name for path in graph.path.parent.iterdir() if "int8" in path.name] == ["int8.onnx"]


def test_int8_quantises_layers_with_weights_and_nothing_in_attention(graph: OnnxGraph, tmp_path: Path) -> None:
    quantised, _ = quantize_int8(graph, noise(32), tmp_path / "all.onnx", candidates=[Calibration("minmax")])
    model = onnx.load(quantised.path)
    made_by = {name: node for node in model.graph.node for name in node.output}
    scopes = json.loads(graph.scopes_path.read_text())
    by_scope = Counter(
        scopes[node.name]
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm", "Conv") and made_by.get(node.input[1], node).op_type == "DequantizeLinear"
    )
    attention = "blocks.0.attn"
    layers = (f"{attention}.qkv", f"{attention}.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "patch_embed.proj", "head")
    assert by_scope == Counter(layers)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {
        scopes[node.name]: numpy_helper.to_array(stored[made_by[node.input[1]].input[1]]).size
        for node in model.graph.node
        if node.op_type == "MatMul" and made_by.get(node.input[1], node).op_type == "DequantizeLinear"
    }
    assert scales == {f"{attention}.qkv": 96, f"{attention}.proj": 48, "blocks.0.mlp.fc1": 72, "blocks.0.mlp.fc2": 48}


def test_int8_stays_close_to_fp32(graph: OnnxGraph, int8: OnnxGraph) -> None:
    parity = compare_models(OnnxModel(graph.path), OnnxModel(int8.path), noise(200, seed=1), precision="int8")
    assert parity.cosine > 0.98
    assert 1e-4 < parity.mean_abs < 0.2  # another network, but not by much
    assert parity.top1_agreement > 0.9


def test_illegal_quantisation_is_named(int8: OnnxGraph, graph: OnnxGraph, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"

    def objections(change: str) -> str:
        model = onnx.load(int8.path)
        node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        scale, zero = stored[node.input[1]], stored[node.input[2]]
        if change == "zero point":
            zero.CopyFrom(numpy_helper.from_array(np.array(3, dtype=np.int8), zero.name))
        elif change == "uint8":
            zero.CopyFrom(numpy_helper.from_array(np.array(0, dtype=np.uint8), zero.name))
        elif change == "scale":
            scale.CopyFrom(numpy_helper.from_array(np.array(0, dtype=np.float32), scale.name))
        path.write_bytes(model.SerializeToString())
        return " ".join(qdq_objections(path))

    assert "zero points other than zero" in objections("zero point")
    assert "UINT8, expected INT8" in objections("uint8")
    assert "not positive" in objections("scale")
    assert "nothing is quantised" in " ".join(qdq_objections(graph.path))


def test_calibration_images_that_do_not_fit_are_refused(graph: OnnxGraph, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="calibration images"):
        quantize_int8(graph, noise(4, 6), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


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
        export_network(
            subnet, out, images=noise(96), labels=labels, preprocessing=PREPROCESSING, classes=CLASSES, max_disagreement=0.2
        )
    return out


def test_folder_holds_what_the_manifest_says(folder: Path, subnet: Subnet) -> None:
    manifest = Manifest.load(folder)
    fp32, fp16, int8, engine = manifest.artefacts
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json", "model.fp16.onnx", "model.fp16.scopes.json", "model.fp32.onnx", "model.fp32.scopes.json",
        "model.int8.onnx",
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
    manifest = export_network(
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
        export_network(other, tmp_path / "out", images=noise(8), preprocessing=PREPROCESSING, classes=CLASSES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precisions": ("int8",)}, "fp32 must be among them"),
        ({"precisions": ("fp32", "int4")}, "unknown precision 'int4'; known are fp32, fp16, int8"),
        ({"formats": ("onnx", "tflite")}, "unknown format 'tflite'"),
        ({"images": noise(4, 6)}, "images to compare on"),
        ({"labels": np.zeros(3, dtype=np.int64)}, "3 labels for 4 images"),
        ({"classes": CLASSES[:4]}, "4 class names for a network of 5 classes"),
        ({"calibration_images": 0}, "must be positive"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    changes: dict[str, object], message: str, subnet: Subnet, tmp_path: Path
) -> None:
    request: dict[str, object] = {"images": noise(4), "preprocessing": PREPROCESSING, "classes": CLASSES, **changes}
    with pytest.raises((ExportError, DataError), match=message):
        export_network(subnet, tmp_path / "out", **request)  # type: ignore[arg-type]
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
