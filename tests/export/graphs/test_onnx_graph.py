"""ONNX files: equal to their network, of the expected structure, free of local paths, refused when damaged."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autoformer.architecture import Architecture
from autoformer.errors import CheckpointError, DataError, ExportError, MissingPackageError
from autoformer.export.graphs.onnx_graph import OnnxGraph, image_shape_of
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.quantization import Calibration, quantize_int8, refused_quantisation
from autoformer.export.graphs.tensorrt_rules import check_tensorrt
from autoformer.export.predictor import open_predictor, torch_model
from autoformer.files import read_json
from autoformer.networks.subnet import Attention, Subnet
from autoformer.space import SearchSpace
from autoformer.tensors import tensors_digest
from tests.support.comparing import compare_models
from tests.support.exported_subnets import ARCHITECTURE, CLASSES, PREPROCESSING, SPACE, graph, int8, network, noise, subnet

__all__ = ["graph", "int8", "subnet"]  # fixtures


def check_parity(subnet: Subnet, graph: OnnxGraph) -> None:
    parity = compare_models(torch_model(subnet), OnnxModel(graph.path), noise(16, graph.image_shape[1]))
    assert parity.batches == (1, 2, 5)
    assert parity.passed, parity.reason
    assert parity.max_abs < 1e-4


def test_onnx_gives_the_logits_of_the_subnet_at_every_batch(subnet: Subnet, graph: OnnxGraph) -> None:
    check_parity(subnet, graph)
    assert subnet(torch.from_numpy(noise(8))).abs().max() > 0.5, "logits near zero would prove nothing"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
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
    assert model.ir_version == 9  # the oldest that goes with opset 20
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["images", "logits"]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3, 8, 8]
    weights = sum(parameter.numel() for parameter in subnet.parameters())
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert sum(int(np.prod(tensor.dims)) for tensor in floats) <= 1.01 * weights  # tables are stored once, not expanded
    tokens = 17
    assert max(int(np.prod(tensor.dims)) for tensor in floats) < tokens * tokens * 16 * 2


def test_file_holds_no_local_path_and_scopes_stand_beside_it(graph: OnnxGraph) -> None:
    content = graph.path.read_bytes()
    for secret in (str(Path(torch.__file__).parent), str(Path(__file__).parents[3]), "site-packages", ".py", "pkg.torch"):
        assert secret.encode() not in content
    scopes = read_json(graph.scopes_path)
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


@pytest.mark.parametrize("form", ["no class token, halved", "class token"])
def test_a_narrow_network_on_a_fine_grid_may_store_tables_that_are_larger_than_its_weights(tmp_path: Path, form: str) -> None:
    space = SearchSpace(
        name="narrow", embed_dims=(16,), depths=(2,), num_heads=(1,), mlp_ratios=(1.0,), head_dim=8, image_sizes=(48,),
        patch_size=2, num_classes=5, absolute_position=False, max_relative_position=6,
    )  # fmt: skip
    if form == "no class token, halved":
        space = replace(space, class_token=False, pooling="mean", pool_after=(1,))
    narrow = Subnet.from_space(space, space.sample(random.Random(0))).eval()
    file = OnnxGraph.from_network(narrow, tmp_path / "model.onnx")
    assert max(weight.numel() for weight in narrow.parameters()) < 24 * 24 * 48 <= max_stored(file)
    with torch.no_grad():
        expected = narrow(torch.from_numpy(noise(2, 48))).numpy()
    np.testing.assert_allclose(OnnxModel(file.path)(noise(2, 48)), expected, atol=1e-6)


def max_stored(file: OnnxGraph) -> int:
    """The numbers in the largest tensor of a file."""
    return max(int(np.prod(tensor.dims)) for tensor in onnx.load(file.path).graph.initializer)


def test_the_images_of_a_network_are_not_the_features_behind_its_backbone() -> None:
    with torch.device("meta"):
        assert image_shape_of(timm.create_model("vit_tiny_r_s16_p8_224", img_size=64)) == (3, 64, 64)
        assert image_shape_of(timm.create_model("test_vit", img_size=32, in_chans=1)) == (1, 32, 32)


def test_damaged_and_foreign_files_are_one_clear_line(graph: OnnxGraph, tmp_path: Path) -> None:
    whole = graph.path.read_bytes()
    flipped = bytearray(whole)
    flipped[:40] = bytes(40)
    cases = {
        "missing.onnx": (None, "does not exist"),
        "empty.onnx": (b"", "truncated|not an ONNX file"),
        "text.onnx": (b"hello, I am no model", "is a text of 20 bytes .*expected an ONNX file"),
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


def test_int8_file_is_legal_for_tensorrt_and_keeps_its_metadata(graph: OnnxGraph, int8: OnnxGraph) -> None:
    assert refused_quantisation(onnx.load(int8.path)) is None
    assert onnx.load(int8.path).ir_version == 9
    assert not [finding for finding in check_tensorrt(int8.path) if finding.rule == "quantisation"]
    assert replace(int8.metadata, precision="fp32") == graph.metadata
    assert int8.metadata.precision == "int8"
    assert int8.path.stat().st_size < graph.path.stat().st_size
    assert [path.name for path in graph.path.parent.iterdir() if "int8" in path.name] == ["int8.onnx"]


def test_int8_quantises_layers_with_weights_and_nothing_in_attention(graph: OnnxGraph, tmp_path: Path) -> None:
    quantised, _ = quantize_int8(graph, noise(32), tmp_path / "all.onnx", candidates=[Calibration("minmax")])
    model = onnx.load(quantised.path)
    made_by = {name: node for node in model.graph.node for name in node.output}
    scopes = read_json(graph.scopes_path)
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


def test_illegal_quantisation_is_named(int8: OnnxGraph, graph: OnnxGraph) -> None:
    def refused(change: str) -> str:
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
        elif change == "domain":
            for node in model.graph.node:
                node.domain = "com.microsoft" if node.op_type == "QuantizeLinear" else node.domain
        return str(refused_quantisation(model))

    assert "zero points other than zero" in refused("zero point")
    assert "quantised to UINT8; INT8 is expected" in refused("uint8")
    assert "a scale is not positive" in refused("scale")
    assert refused("domain") == refused_quantisation(onnx.load(graph.path)) == "nothing is quantised"


def test_calibration_images_that_do_not_fit_are_refused(graph: OnnxGraph, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="calibration images"):
        quantize_int8(graph, noise(4, 6), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
