"""Opset 17 of what torch writes as 18: every form that exists there, with equal results; and the oldest version of the format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from autoformer.errors import ExportError
from autoformer.export.graphs.oldest_form import lower_to_17, oldest_ir_version
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.files import read_json
from tests.support.exported_subnets import noise

X = ("batch", 6, 4, 5)  # of the operators below


def model_of(
    kind: str, *constants: object, outputs: int = 1, shape: tuple[int | str, ...] = X, opset: int = 18, **attributes: Any
) -> onnx.ModelProto:
    """One operator of an input "x"; "" among the further inputs leaves one out, the rest are stored."""
    names = ["" if isinstance(value, str) else f"constant{index}" for index, value in enumerate(constants)]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in zip(names, constants, strict=True) if name]
    names_out = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(kind, ["x", *names], names_out, name="the_node", **attributes)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names_out]
    body = helper.make_graph([node], "g", [given], made, stored)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def ints(values: object) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def floats(values: object) -> NDArray[np.float32]:
    return np.array(values, np.float32)


EXISTING = {
    "split in equal parts": lambda: model_of("Split", outputs=3, num_outputs=3, axis=1),
    "split with a smaller last part": lambda: model_of("Split", outputs=3, num_outputs=3, axis=3),
    "split by sizes": lambda: model_of("Split", ints([1, 5]), outputs=2, axis=1),
    "resize by scales": lambda: model_of("Resize", "", floats([1, 1, 2, 2]), mode="linear", antialias=0),
    "resize to sizes": lambda: model_of("Resize", "", "", ints([3, 6, 7, 9]), mode="cubic", cubic_coeff_a=-0.5),
    "resize of chosen axes by scales": lambda: model_of("Resize", "", floats([3, 2]), mode="nearest", axes=[-1, 2]),
    "resize of chosen axes to sizes": lambda: model_of("Resize", "", "", ints([9, 7]), mode="linear", axes=[3, 2]),
    "pad": lambda: model_of("Pad", ints([0, 0, 1, 2, 0, 0, 2, 1]), mode="reflect"),
    "pad of chosen axes": lambda: model_of("Pad", ints([1, 2, 3, 1]), floats(7), ints([-1, 2])),
    "reduction of everything": lambda: model_of("ReduceMax", keepdims=0),
    "reduction over axes": lambda: model_of("ReduceMean", ints([-1, 1]), keepdims=1),
    "norm over no axes": lambda: model_of("ReduceL2", ints([]), noop_with_empty_axes=1),
    "square over no axes": lambda: model_of("ReduceSumSquare", ints([]), noop_with_empty_axes=1),
    "maximum over no axes": lambda: model_of("ReduceMax", noop_with_empty_axes=1),
    "reduction over all axes that are none": lambda: model_of("ReduceMin", ints([]), noop_with_empty_axes=0),
    "mish": lambda: model_of("Mish"),
    "group normalisation": lambda: model_of(
        "GroupNormalization", floats([1, 2, 3]), floats([0, -1, 1]), num_groups=3, epsilon=1e-3
    ),
    "columns to image": lambda: model_of(
        "Col2Im", ints([5, 6]), ints([2, 3]), shape=("batch", 12, 12), strides=[1, 2], pads=[0, 1, 1, 0], dilations=[2, 1]
    ),
    "columns to image that fill it unevenly": lambda: model_of(
        "Col2Im", ints([7, 8]), ints([3, 2]), shape=("batch", 6, 4), strides=[3, 5]
    ),
    "power pooling": lambda: model_of("LpPool", kernel_shape=[2, 2], p=3, ceil_mode=0, dilations=[1, 1]),
    "scatter that adds": lambda: model_of("ScatterND", ints([[0], [0]]), np.ones((2, 6, 4, 5), np.float32), reduction="add"),
}  # fmt: skip


@pytest.mark.parametrize("form", EXISTING)
def test_what_exists_in_opset_17_computes_the_same_there(form: str) -> None:
    """Both are run by ONNX Runtime, whose implementations of opset 18 are the expected values."""
    make: Callable[[], onnx.ModelProto] = EXISTING[form]
    older, scopes = make(), {"the_node": "stem"}
    shape = [dim.dim_value or 3 for dim in older.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = run(make(), x)
    lower_to_17(older, scopes)
    assert [entry.version for entry in older.opset_import] == [17]
    assert scopes == {node.name: "stem" for node in older.graph.node}
    found = run(older, x)
    assert len(found) == len(expected) == len(older.graph.output)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert not np.allclose(found[0], 0)


WITHOUT_FORM = {
    "it antialiases": lambda: model_of("Resize", "", floats([1, 1, 0.5, 0.5]), mode="linear", antialias=1),
    r"it keeps the aspect ratio \(not_larger\)": lambda: model_of(
        "Resize", "", "", ints([8, 9]), axes=[2, 3], keep_aspect_ratio_policy="not_larger"
    ),
    "the size of axis 0 is open": lambda: model_of("Split", outputs=2, num_outputs=2, axis=0),
    "its reduction is 'max'": lambda: model_of("ScatterND", ints([[0]]), np.ones((1, 6, 4, 5), np.float32), reduction="max"),
    "rounds its size up": lambda: model_of("LpPool", kernel_shape=[2, 2], ceil_mode=1),
    "opset 18 brought it": lambda: model_of("CenterCropPad", ints([2, 2]), axes=[2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("reason", WITHOUT_FORM)
def test_what_has_no_form_names_its_node_and_module(reason: str) -> None:
    model = WITHOUT_FORM[reason]()
    before = model.SerializeToString()
    operator = model.graph.node[0].op_type
    with pytest.raises(
        ExportError,
        match=f"^{operator} at node the_node of module 'neck.up' has no form in opset 17: .*{reason}.*choose opset 18",
    ):
        lower_to_17(model, {"the_node": "neck.up"})
    assert model.SerializeToString() == before


def test_nodes_inside_branches_are_rewritten_too() -> None:
    inside = model_of("Mish", shape=(2,)).graph
    branch = helper.make_graph(inside.node, "branch", [], [helper.make_tensor_value_info("y0", TensorProto.FLOAT, [2])])
    choose = helper.make_node("If", ["which"], ["y"], name="if", then_branch=branch, else_branch=branch)
    values = [
        helper.make_tensor_value_info("which", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
    ]
    made = helper.make_graph([choose], "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    lower_to_17(model, {})
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node[0].attribute[0].g.node] == ["Softplus", "Tanh", "Mul"]


class Parts(nn.Module):
    """A classifier that splits, pads, resizes and normalises in the ways of foreign networks."""

    num_classes = 4

    def __init__(self, kind: str, antialias: bool = False) -> None:
        super().__init__()
        self.kind, self.antialias = kind, antialias
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 4, 4), nn.GroupNorm(2, 8), nn.Linear(8, 4)
        self.up = nn.Upsample(scale_factor=2.0, mode="bilinear")

    def forward(self, x: Tensor) -> Tensor:
        y, f = self.stem(x), nn.functional
        if self.antialias:
            y = f.interpolate(y, scale_factor=0.5, mode="bilinear", antialias=True)
        change: dict[str, Callable[[], Tensor]] = {
            "chunk": lambda: torch.cat(y.chunk(2, 1)[::-1], 1),
            "uneven chunk": lambda: torch.cat(y.chunk(3, 1)[::-1], 1),
            "split": lambda: torch.cat(y.split([3, 5], 1)[::-1], 1),
            "unbind": lambda: torch.cat(y.reshape(len(y), 2, 4, -1).unbind(1)[::-1], 1).reshape_as(y),
            "groupnorm": lambda: self.norm(y),
            "bilinear": lambda: self.up(y),
            "bicubic": lambda: f.interpolate(y, size=(6, 9), mode="bicubic", align_corners=True),
            "nearest": lambda: f.interpolate(y, scale_factor=2.0, mode="nearest"),
            "amax": lambda: y.amax((2, 3), keepdim=True) - y.max(),
            "reflect": lambda: f.pad(y, (1, 2, 1, 0), mode="reflect"),
            "mish": lambda: f.mish(y),
            "normalize": lambda: f.normalize(y, dim=1),
            "roll": lambda: y.roll(1, 2) * torch.arange(4.0),
            "fold": lambda: f.fold(f.unfold(y, 3, padding=1), (4, 4), 3, padding=1),
            "all": lambda: self.up(f.mish(torch.cat(f.pad(self.norm(y), (1, 2, 1, 0), mode="reflect").chunk(3, 1)[::-1], 1))),
        }
        y = change[self.kind]()
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]


def check_at_17(kind: str, folder: Path) -> None:
    torch.manual_seed(0)
    network = Parts(kind).eval()
    graph = OnnxGraph.from_network(network, folder / "model.onnx", opset=17, image_shape=(3, 16, 16))
    model = onnx.load(graph.path)
    onnx.checker.check_model(model, full_check=True)
    assert (graph.opset, model.ir_version) == (17, 8)
    assert set(read_json(graph.scopes_path)) == {node.name for node in model.graph.node}
    images = noise(5, 16)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(OnnxModel(graph.path)(images), expected, atol=1e-5)


def test_a_network_that_splits_pads_and_resizes_is_written_as_opset_17(tmp_path: Path) -> None:
    check_at_17("all", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "chunk", "uneven chunk", "split", "unbind", "groupnorm", "bilinear", "bicubic", "nearest", "amax", "reflect", "mish",
        "normalize", "roll", "fold",
    ],
)  # fmt: skip
def test_each_part_of_foreign_networks_is_written_as_opset_17(kind: str, tmp_path: Path) -> None:
    check_at_17(kind, tmp_path)


@pytest.mark.slow
def test_a_network_without_a_form_names_the_module_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^Resize at node \S+ .*has no form in opset 17: it antialiases"):
        OnnxGraph.from_network(Parts("chunk", antialias=True), tmp_path / "x.onnx", opset=17, image_shape=(3, 16, 16))
    assert not list(tmp_path.iterdir())


# onnx.helper.VERSION_TABLE has the same up to opset 22; newer operators need no newer format.
@pytest.mark.parametrize(("opset", "version"), [(17, 8), (18, 8), (19, 9), (20, 9), (21, 10), (22, 10), (23, 10), (25, 10)])
def test_the_format_is_the_oldest_that_holds_the_operators(opset: int, version: int) -> None:
    assert oldest_ir_version(model_of("Relu", opset=opset)) == version


def test_types_and_fields_of_newer_formats_are_counted() -> None:
    model = model_of("Relu", opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert oldest_ir_version(model) == 8
    stored = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT8E4M3FN, dims=[0])
    assert oldest_ir_version(model) == 9
    stored.data_type = TensorProto.UINT4
    assert oldest_ir_version(model) == 10


class Rows(nn.Module):
    """A product whose rows are normalised over the batch, as LeViT has them; and one that is normalised as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.last, self.head = (
            nn.Linear(3, 6, bias=False),
            nn.BatchNorm1d(6),
            nn.BatchNorm1d(6),
            nn.Linear(6, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x.flatten(2).transpose(1, 2))
        y = self.norm(y.flatten(0, 1)).reshape_as(y)
        return self.head(self.last(y.mean(1)))  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 20])
def test_normalised_rows_of_a_product_are_written_as_a_factor_and_a_shift(opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, images = Rows(), noise(6, 4)
    for _ in range(3):  # statistics that change something
        network(torch.from_numpy(noise(16, 4) * 3 + 1))
    graph = OnnxGraph.from_network(network.eval(), tmp_path / "model.onnx", opset=opset, image_shape=(3, 4, 4))
    model = onnx.load(graph.path)
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 1
    assert set(read_json(graph.scopes_path)) == {node.name for node in model.graph.node}
    with torch.no_grad():
        np.testing.assert_allclose(OnnxModel(graph.path)(images), network(torch.from_numpy(images)).numpy(), atol=1e-5)
