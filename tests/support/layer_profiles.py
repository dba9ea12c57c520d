"""A graph of a few layers, and a profile of it with known sums."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autoformer.profiling.insides.layers import LayerProfile, LayerTime


def layer(name: str, operator: str, scope: str, average_ms: float) -> LayerTime:
    return LayerTime(
        name=name, operator=operator, scope=scope, total_ms=4 * average_ms, average_ms=average_ms, median_ms=average_ms
    )


PROFILE = LayerProfile(
    name="model.onnx",
    backend="onnxruntime-cpu",
    precision="fp32",
    batch=1,
    threads=1,
    runs=4,
    layers=(
        layer("conv", "Conv", "patch_embed.proj", 1.0),
        layer("reorder", "ReorderOutput", "patch_embed.proj", 0.5),
        layer("norm", "LayerNormalization", "blocks.0.norm1", 0.25),
        layer("qkv", "MatMul", "blocks.0.attn.qkv", 2.0),
        layer("fc1", "Gemm", "blocks.0.mlp.fc1", 3.0),
        layer("add", "Add", "blocks.0", 0.25),
        layer("qkv 10", "MatMul", "blocks.10.attn.qkv", 1.5),
        layer("qkv 2", "MatMul", "blocks.2.attn.qkv", 1.0),
        layer("head", "Gemm", "head", 0.5),
    ),
    end_to_end_ms=8.0,
)


def graph() -> onnx.ModelProto:
    """x -> MatMul (qkv) -> Add its bias -> Relu -> MatMul (head), as an exporter names it."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w1", (8, 8)), ("b1", (8,)), ("w2", (8, 8)))
    ]
    nodes = [
        helper.make_node("MatMul", ["images", "w1"], ["product"], "node_MatMul_1"),
        helper.make_node("Add", ["product", "b1"], ["biased"], "node_linear"),
        helper.make_node("Relu", ["biased"], ["active"], "node_relu"),
        helper.make_node("MatMul", ["active", "w2"], ["logits"], "node_MatMul_2"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in ("images", "logits")]
    made = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
