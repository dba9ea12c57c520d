"""fp16: what is half, what is not, and when it is not offered."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import ExportError
from autoformer.export.graphs.attention_pattern import attentions
from autoformer.export.graphs.graph_view import GraphView
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.tensorrt_rules import check_tensorrt
from autoformer.export.networks.half_precision import HalfPrecision, Peaks, measure_peaks, part_of
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace
from tests.support.exporting import write_export

SPACE = SearchSpace.preset("micro", image_size=16, in_chans=3, num_classes=4)
IMAGES = np.random.default_rng(0).standard_normal((40, 3, 16, 16)).astype(np.float32)


def network() -> Subnet:
    torch.manual_seed(0)
    return Subnet.from_space(SPACE, SPACE.smallest).eval()


def logits(model: torch.nn.Module) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = model(torch.from_numpy(IMAGES)).numpy()
    return found


def large_inside_the_mlp(factor: float = 1e6) -> Subnet:
    """The hidden activations of the first MLP reach a hundred thousand; what it gives is as before, but for the GELU."""
    large = network()
    with torch.no_grad():
        large.get_parameter("blocks.0.mlp.fc1.weight").mul_(factor)
        large.get_parameter("blocks.0.mlp.fc2.weight").div_(factor)
    return large


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> OnnxGraph:
    path = tmp_path_factory.mktemp("half") / "model.fp16.onnx"
    return OnnxGraph.from_network(HalfPrecision(network()), path, image_shape=(3, 16, 16), as_it_is=True)


def test_weights_are_half_and_images_logits_and_normalisations_are_not(half: OnnxGraph) -> None:
    model = onnx.load(half.path)
    graph = GraphView.of(model)
    assert [graph.types[value.name] for value in (*model.graph.input, *model.graph.output)] == [TensorProto.FLOAT] * 2
    products = [node for node in graph.nodes if node.op_type in ("MatMul", "Gemm", "Conv")]
    assert {graph.types[node.input[0]] for node in products} == {TensorProto.FLOAT16}
    norms = [node for node in graph.nodes if node.op_type == "LayerNormalization"]
    assert len(norms) == 2 * SPACE.smallest.depth + 1
    assert {graph.types[node.input[0]] for node in norms} == {TensorProto.FLOAT}
    held = sum(np.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16)
    assert held > 0.95 * sum(parameter.numel() for parameter in network().parameters())


def test_every_attention_is_the_plain_pattern_that_tensorrt_fuses(half: OnnxGraph) -> None:
    found = attentions(GraphView.of(onnx.load(half.path)))
    assert len(found) == SPACE.smallest.depth
    assert [attention.objections for attention in found] == [()] * len(found)
    assert check_tensorrt(half.path, ("10.3", "10.16", "11.4")) == []


def test_logits_stay_within_half_precision_of_the_network_at_every_batch(half: OnnxGraph) -> None:
    exact, model = logits(network()), OnnxModel(half.path)
    for batch in (1, 3, 40):
        given = np.concatenate([model(IMAGES[start : start + batch]) for start in range(0, 40, batch)])
        assert np.abs(given - exact).max() < 2**-10 * max(1.0, np.abs(exact).max())
    assert given.dtype == np.float32


def test_the_network_itself_stays_as_it_is() -> None:
    given, before = network(), logits(network())
    HalfPrecision(given, ("blocks.0.mlp",))
    measure_peaks(given, IMAGES)
    assert {parameter.dtype for parameter in given.parameters()} == {torch.float32}
    assert np.array_equal(logits(given), before)


# --- range -------------------------------------------------------------------------------------------------------


def test_peaks_are_those_that_hooks_on_the_modules_see() -> None:
    given, seen = network(), {}
    for name in ("patch_embed.proj", "blocks.0.mlp.fc1", "blocks.1.attn.qkv", "blocks.0.norm1"):
        given.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: max(seen.get(name, 0.0), float(out.abs().max()))})
        )
    logits(given)
    peaks = measure_peaks(network(), IMAGES)
    for name, largest in seen.items():
        assert peaks.inside[name] == pytest.approx(largest, rel=1e-4)
    assert peaks.inside["blocks.1.attn.qkv"] >= float(given.get_parameter("blocks.1.attn.qkv.weight").detach().abs().max())
    assert peaks.to_keep() == ()
    assert peaks.images == 40


@pytest.mark.slow
def test_a_part_that_overflows_inside_stays_in_fp32_and_only_it(tmp_path: Path) -> None:
    large = large_inside_the_mlp()
    kept = measure_peaks(large, IMAGES).to_keep()
    assert kept == ("blocks.0.mlp",)
    exact = logits(large)
    files = [
        OnnxGraph.from_network(HalfPrecision(large, keep), tmp_path / f"{len(keep)}.onnx", image_shape=(3, 16, 16), as_it_is=True)
        for keep in ((), kept)
    ]
    overflown, sound = (OnnxModel(file.path)(IMAGES) for file in files)
    assert not np.isfinite(overflown).all()
    assert np.abs(sound - exact).max() < 2**-10 * max(1.0, np.abs(exact).max())


def test_what_passes_between_parts_cannot_be_kept_and_is_named() -> None:
    with pytest.raises(ExportError, match=r"values reach 9e\+03 in blocks.2 .* use fp32, or bfloat16"):
        Peaks({"blocks.2": 9e3}, {}, 10).to_keep()
    with pytest.raises(ExportError, match=r"in blocks\.2\.mlp\.fc2"):
        Peaks({"blocks.2.mlp.fc2": 9e3}, {"blocks.2.mlp": 9e3}, 10).to_keep()
    assert Peaks({"blocks.2.mlp.fc1": 9e3}, {"blocks.2.mlp": 8e3}, 10).to_keep() == ("blocks.2.mlp",)
    assert Peaks({"blocks.2": 8188.0}, {}, 10).to_keep() == ()  # an eighth of 65504


@pytest.mark.parametrize(
    ("name", "part"),
    [("blocks.3.mlp.fc1", "blocks.3.mlp"), ("blocks.3.attn", "blocks.3.attn"), ("blocks.3", None), ("head", None), ("", None)],
)
def test_parts_are_the_attentions_and_mlps_of_blocks(name: str, part: str | None) -> None:
    assert part_of(name) == part


def exported(given: Subnet, out: Path) -> dict[str, str]:
    preprocessing = Preprocessing(image_size=16, in_chans=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    manifest = write_export(
        given, out, images=IMAGES, preprocessing=preprocessing, classes="abcd", precisions=("fp32", "fp16"), formats=("onnx",),
    )  # fmt: skip
    assert [artefact.precision for artefact in manifest.artefacts] == ["fp32", "fp16"]
    return {artefact.precision: f"{artefact.status}: {artefact.reason}" for artefact in manifest.artefacts}


@pytest.mark.slow
def test_an_fp16_file_out_of_range_is_rejected_with_its_reason_and_fp32_stays(tmp_path: Path) -> None:
    large = network()
    with torch.no_grad():
        large.get_parameter("pos_embed").mul_(1e7)
    found = exported(copy.deepcopy(large), tmp_path / "large")
    assert found["fp16"].startswith("rejected: values reach")
    assert found["fp32"].startswith("exported")
    assert sorted(path.name for path in (tmp_path / "large").iterdir()) == [
        "class_map.txt", "manifest.json", "model.fp32.onnx", "model.fp32.scopes.json",
    ]  # fmt: skip


class Padded(nn.Module):
    """Pads with -inf before a maximum, as timm's pooling of TensorFlow's kind does."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(images, (0, 1, 0, 1), value=float("-inf"))
        return nn.functional.max_pool2d(padded, 3, 2).mean((2, 3))


def test_padding_of_minus_infinity_is_no_large_activation() -> None:
    images = np.full((2, 3, 8, 8), 5, np.float32)
    assert measure_peaks(Padded(), images).largest == 5
    images[0, 0, 0, 0] = np.inf
    assert measure_peaks(Padded(), images).largest > 1e30
