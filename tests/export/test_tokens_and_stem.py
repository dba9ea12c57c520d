"""Files of networks with a convolutional stem, kernels and a halved grid: equal, legal for TensorRT, without needless nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from autoformer.data.preprocessing import Preprocessing
from autoformer.export.graphs.onnx_graph import OnnxGraph, image_shape_of
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.quantization import Calibration, quantize_int8
from autoformer.export.graphs.tensorrt_rules import check_tensorrt
from autoformer.export.manifest import Manifest
from autoformer.export.networks.folding import first_conv_of, fold_normalisation
from autoformer.export.networks.half_precision import HalfPrecision
from autoformer.export.predictor import torch_model
from autoformer.files import read_json
from autoformer.networks.subnet import Subnet
from tests.support.comparing import compare_models
from tests.support.exporting import write_export
from tests.support.grids_and_stems import Stem, asking, network_asked_for

FLOATS = Preprocessing(16, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PIXELS = replace(FLOATS, input_type="uint8")
CLASSES = ("ape", "bee", "cat", "dog", "eel")
KINDS: tuple[tuple[Stem, bool], ...] = (("patch", True), ("conv", False))


def network(stem: Stem, class_token: bool, image_size: int = 16) -> Subnet:
    """Three blocks with kernels of 3, none and 5, the last on a halved grid; heads of 16 channels, as TensorRT fuses them."""
    torch.manual_seed(0)
    space = asking(stem, class_token=class_token, head_dim=16, image_sizes=(16, 32))
    subnet = Subnet.from_space(space, network_asked_for(stem, image_size=image_size)).eval().requires_grad_(False)
    for name, weight in subnet.named_parameters():
        nn.init.normal_(weight, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.3)
    return subnet


def noise(count: int, side: int = 16) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 3, side, side), dtype=np.float32)


def pixels(count: int, side: int = 16) -> NDArray[np.uint8]:
    """Images [n, side, side, 3] of smooth colours."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, side // 4, side // 4, 3))
    fine = coarse.repeat(4, 1).repeat(4, 2) + rng.integers(-20, 21, (count, side, side, 3))
    return fine.clip(0, 255).astype(np.uint8)


def objections(path: Path, versions: Sequence[str]) -> set[tuple[str, str]]:
    return {(finding.level, finding.why) for finding in check_tensorrt(path, versions)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Stem, bool], OnnxGraph]:
    """The fp32 file of a network, written once for all tests that look at it."""
    folder, made = tmp_path_factory.mktemp("plain"), dict[tuple[Stem, bool], OnnxGraph]()

    def of(stem: Stem, class_token: bool) -> OnnxGraph:
        if (stem, class_token) not in made:
            path = folder / f"{stem}-{class_token}.onnx"
            made[stem, class_token] = OnnxGraph.from_network(network(stem, class_token), path)
        return made[stem, class_token]

    return of


def lacking() -> Subnet:
    """Narrow heads, a block without MLP, one without attention and one without both."""
    torch.manual_seed(0)
    space = asking("patch, cut", head_dim=16, head_dims=(8, 16), image_sizes=(16, 32))
    architecture = network_asked_for("patch", num_heads=(3, 0, 0), mlp_ratio=(0, 2.0, 0), head_dim=8)
    space.check(architecture)
    subnet = Subnet.from_space(space, architecture).eval().requires_grad_(False)
    for name, weight in subnet.named_parameters():
        nn.init.normal_(weight, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.3)
    return subnet


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "opset"),
    [(partial(network, *KINDS[0]), 20), (partial(network, *KINDS[1]), 17), (lacking, 17)],
)
def test_every_precision_is_equal_and_legal(made: Callable[[], Subnet], opset: int, tmp_path: Path) -> None:
    subnet = made()
    images = noise(96)
    manifest = write_export(
        subnet, tmp_path / "out", images=images, preprocessing=FLOATS, classes=CLASSES, precisions=("fp32", "fp16", "int8"),
        formats=("onnx",), opset=opset, calibration_images=64, max_disagreement=0.3,
    )  # fmt: skip
    assert isinstance(manifest, Manifest)
    found = {artefact.precision: artefact for artefact in manifest.artefacts}
    assert {name: artefact.status for name, artefact in found.items()} == dict.fromkeys(("fp32", "fp16", "int8"), "exported")
    expected = torch_model(subnet)(images)
    limits = {"fp32": 1e-5, "fp16": 2e-2, "int8": 1.0}
    for name, limit in limits.items():
        path = tmp_path / "out" / f"model.{name}.onnx"
        model = OnnxModel(path)
        for batch in (1, 5):
            np.testing.assert_allclose(model(images[:batch]), expected[:batch], atol=limit * np.abs(expected).max())
        versions = ("8.6", "10.3", "11.4") if opset == 17 else ("10.3", "11.4")
        in_float32 = {("not fused", "attention: it computes in float32; only half precision and int8 are fused")}
        flag = {("falls back", "half precision needs the builder's FP16 flag in this version; without it float32 is computed")}
        assert objections(path, versions) - flag == (set() if name == "fp16" else in_float32)
    assert manifest.flops == subnet.cost.flops


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "class_token"), [KINDS[1]])  # other networks have a patch embedding
def test_uint8_pixels_give_the_logits_of_their_normalised_values(
    stem: Stem, class_token: bool, tmp_path: Path, plain: Callable[[Stem, bool], OnnxGraph]
) -> None:
    subnet, shown = network(stem, class_token), pixels(96)
    limits: dict[str, float] = {"fp32": 1e-5, "fp16": 2e-2, "int8": 1.0}
    write_export(
        subnet, tmp_path / "out", images=PIXELS.prepare(shown), preprocessing=PIXELS, classes=CLASSES,
        precisions=tuple(limits), formats=("onnx",), calibration_images=64, max_disagreement=0.3,
    )  # fmt: skip
    expected = torch_model(subnet)(FLOATS.prepare(shown))
    for name, limit in limits.items():
        path = tmp_path / "out" / f"model.{name}.onnx"
        np.testing.assert_allclose(OnnxModel(path)(PIXELS.prepare(shown)), expected, atol=limit * np.abs(expected).max())
        assert not [finding for finding in check_tensorrt(path, ("10.3",)) if finding.level in ("fails", "risk")]
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "out" / "model.fp32.onnx").graph.node)
    without = Counter(node.op_type for node in onnx.load(plain(stem, class_token).path).graph.node)
    added = {"Cast": 1, "Sub": 1} if stem == "conv" else {"Cast": 1}  # a stem that pads takes the average colour off first
    assert operators - without == Counter(added)


def test_folding_a_conv_stem_is_exact_at_the_borders_too() -> None:
    subnet = network("conv", True).double()
    shown = pixels(4)
    values = torch.from_numpy(shown).permute(0, 3, 1, 2).double()
    colours = [torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (FLOATS.mean, FLOATS.std)]
    expected = subnet((values / 255 - colours[0]) / colours[1])
    folded = fold_normalisation(subnet, FLOATS)
    torch.testing.assert_close(folded(values), expected, rtol=1e-11, atol=1e-11)
    assert first_conv_of(subnet) == "patch_embed.convs.0"
    assert image_shape_of(subnet) == (3, 16, 16)


def test_a_part_with_kernels_may_stay_in_fp32() -> None:
    subnet = network("conv", False)
    images = torch.from_numpy(noise(4))
    half = HalfPrecision(subnet, ("blocks.0.mlp", "blocks.2.mlp", "blocks.2.attn"))
    torch.testing.assert_close(half(images), subnet(images), rtol=0, atol=2e-2 * float(subnet(images).abs().max()))


# --- the graph ---------------------------------------------------------------------------------------------------


def nodes_of(graph: OnnxGraph) -> dict[str, list[str]]:
    """The operators of each module, in order."""
    scopes = read_json(graph.scopes_path)
    found: dict[str, list[str]] = {}
    for node in onnx.load(graph.path).graph.node:
        found.setdefault(scopes[node.name], []).append(node.op_type)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "class_token"),
    KINDS,
)
def test_kernels_and_halving_cost_the_fewest_nodes(
    stem: Stem, class_token: bool, plain: Callable[[Stem, bool], OnnxGraph]
) -> None:
    nodes = nodes_of(plain(stem, class_token))
    kernel = ["Transpose", "Reshape", "Conv", "Reshape", "Transpose"]
    halving = ["Reshape", "ReduceMean", "Reshape"]
    if class_token:
        kernel, halving = ["Slice", *kernel, "Slice", "Concat"], ["Slice", *halving, "Slice", "Concat"]
    assert nodes["blocks.0.mlp.conv"] == nodes["blocks.2.mlp.conv"] == kernel
    assert "blocks.1.mlp.conv" not in nodes
    outside = nodes[""]
    at = outside.index("ReduceMean")
    before, after = (2, 2 + 2) if class_token else (1, 2)
    assert outside[at - before : at + after] == halving
    assert nodes["blocks.0.attn"].count("Softmax") == 1
    assert nodes["blocks.0.mlp.act"] == ["Gelu"]
    if stem == "conv":
        assert nodes["patch_embed"] == ["Relu"] * 3 + ["Reshape", "Transpose"]
        assert [nodes[f"patch_embed.convs.{index}"] for index in range(3)] == [["Conv"]] * 3


@pytest.mark.slow
def test_without_a_class_token_nothing_is_added_that_is_zero(plain: Callable[[Stem, bool], OnnxGraph]) -> None:
    graph = plain("conv", False)
    model = onnx.load(graph.path)
    nodes, scopes = nodes_of(graph), read_json(graph.scopes_path)
    without, with_token = nodes["blocks.0.attn"], nodes_of(plain("conv", True))["blocks.0.attn"]
    assert (without.count("Pad"), with_token.count("Pad")) == (1, 2)  # to a width that kernels like
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Add", "Sub"):
            zeros = [name for name in node.input if name in stored and not stored[name].any()]
            assert not zeros, (scopes[node.name], node.op_type, zeros)


@pytest.mark.slow
def test_runtimes_fuse_gelu_and_normalisation_as_in_other_networks(tmp_path: Path) -> None:
    """What ONNX Runtime computes on a CPU after its own optimisation: no GELU taken apart, no shape arithmetic left."""
    import onnxruntime

    graph = OnnxGraph.from_network(network("conv", False), tmp_path / "fixed.onnx", batch=1)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(graph.path), options, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)
    assert operators["Gelu"] == 3
    assert operators["LayerNormalization"] + operators["SkipLayerNormalization"] == 7
    assert not {"Erf", "Shape", "Gather"} & operators.keys()  # tables are looked up when the file is loaded
    assert operators["Conv"] + operators["FusedConv"] == 6


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "class_token"), KINDS)
def test_int8_quantises_layers_with_weights_and_nothing_in_attention(
    stem: Stem, class_token: bool, tmp_path: Path, plain: Callable[[Stem, bool], OnnxGraph]
) -> None:
    graph = plain(stem, class_token)
    quantised, _ = quantize_int8(graph, noise(32), tmp_path / "int8.onnx", candidates=[Calibration("minmax")])
    model, scopes = onnx.load(quantised.path), read_json(graph.scopes_path)
    made_by = {name: node for node in model.graph.node for name in node.output}

    def is_int8(node: onnx.NodeProto) -> bool:
        return all(name in made_by and made_by[name].op_type == "DequantizeLinear" for name in node.input[:2])

    found = Counter(
        scopes[node.name] for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv") and is_int8(node)
    )
    layers = {f"blocks.{index}.{part}" for index in range(3) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    layers |= {"blocks.0.mlp.conv", "blocks.2.mlp.conv", "patch_embed.proj", "head"}
    layers |= {f"patch_embed.convs.{index}" for index in range(3)} if stem == "conv" else set()
    assert found == Counter(layers)
    assert not [finding for finding in check_tensorrt(quantised.path, ("10.3",)) if finding.rule == "quantisation"]
    parity = compare_models(OnnxModel(graph.path), OnnxModel(quantised.path), noise(64), precision="int8")
    assert parity.cosine > 0.97


@pytest.mark.slow
def test_a_fixed_batch_is_written_and_equal(tmp_path: Path) -> None:
    for (stem, class_token), batch in zip(KINDS, (1, 3), strict=True):
        subnet = network(stem, class_token, 32)
        graph = OnnxGraph.from_network(subnet, tmp_path / "fixed.onnx", batch=batch)
        images = noise(batch, 32)
        np.testing.assert_allclose(OnnxModel(graph.path)(images), torch_model(subnet)(images), atol=1e-4)
