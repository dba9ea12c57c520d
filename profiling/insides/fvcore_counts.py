"""What fvcore counts for a network: params, and FLOPs (multiply-adds) of one image by operator and by module.

fvcore is the reference that the closed forms of `autoformer.cost` must equal. Two gaps of it are filled: fused attention
(`scaled_dot_product_attention`), which it leaves out of its sum, and products with a vector, at which it fails. Its
warnings are replaced by the list of operators it did not count, and by one warning where some of these may multiply. A network
of ours is counted in its canonical form (relative position as a bias), whatever form its device would run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing fvcore uses torch.jit.script, which is deprecated
    from fvcore.nn import FlopCountAnalysis, parameter_count
    from fvcore.nn.jit_handles import get_shape, matmul_flop_jit

from autoformer.errors import AutoformerWarning, MeasurementError, short
from autoformer.networks.subnet import Attention
from autoformer.pretrained.named_network import open_network

# They move or make values and compute nothing, like those that fvcore leaves out by itself.
WITHOUT_ARITHMETIC = (
    "aten::embedding", "aten::eye", "aten::lift_fresh", "aten::pad", "aten::repeat", "aten::repeat_interleave", "aten::unflatten",
)  # fmt: skip

# They compute, but no multiply-adds of the kind that is counted: a few operations an element. Any other operator that is not in
# the sum causes a warning.
ELEMENTWISE = frozenset(
    f"aten::{name}{suffix}"
    for name in (
        "abs", "add", "amax", "argmax", "avg_pool2d", "cumsum", "div", "elu", "erf", "exp", "gelu", "hardsigmoid", "hardswish",
        "hardtanh", "leaky_relu", "log", "log_softmax", "max_pool2d", "maximum", "mean", "minimum", "mul", "neg", "pow",
        "reciprocal", "rsqrt", "rsub", "sigmoid", "silu", "softmax", "sqrt", "square", "sub", "sum", "tanh", "var", "where",
    )
    for suffix in ("", "_")
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FvcoreCounts:
    """Counts of one network for one image. Module names are torch's; "" is the whole network."""

    params: int
    flops: int  # multiply-adds
    flops_by_operator: dict[str, int]
    flops_by_module: dict[str, int]
    params_by_module: dict[str, int]
    uncounted: dict[str, int]  # operators that compute but are not in the sum, with their occurrences

    @property
    def doubtful(self) -> dict[str, int]:
        """Of `uncounted`, the operators that may multiply."""
        return {name: times for name, times in self.uncounted.items() if name not in ELEMENTWISE}

    def why_uncounted(self, operator: str) -> str:
        """Why an operator of `uncounted` is not in the sum."""
        return "it may multiply, fvcore does not know it" if operator in self.doubtful else "elementwise: no multiply-adds"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**asdict(self), "may_multiply": self.doubtful}


def report_of(words: str) -> FvcoreCounts:
    """Counts the network of a folder or timm's name on one image as it takes them. Raises what `open_network` raises, and
    `MeasurementError` when fvcore cannot count it."""
    named = open_network(words)
    shape = (named.preprocessing.in_chans, named.preprocessing.input_size, named.preprocessing.input_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # what it says stands in `doubtful`
            return count_by_operator(named.network, shape)
    except (RuntimeError, NotImplementedError, AssertionError, KeyError) as error:
        reason = short(" ".join(str(error).split()), 200)
        raise MeasurementError(f"fvcore cannot count {words} ({type(error).__name__}: {reason})") from error


def count_by_operator(network: nn.Module, image_shape: Sequence[int]) -> FvcoreCounts:
    """Counts `network` on one image of `image_shape` [C, H, W]. The network is left as it was.

    Warns (`UserWarning`) when an operator that may multiply is not in the sum.
    """
    first = next(network.parameters())
    image = torch.zeros((1, *image_shape), device=first.device, dtype=first.dtype)
    with _canonical(network), torch.no_grad():
        analysis = FlopCountAnalysis(network, image)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.set_op_handle(
            **{
                "aten::scaled_dot_product_attention": _count_attention,
                "aten::matmul": _count_matmul,
                "aten::mv": _count_matmul,
                **dict.fromkeys(WITHOUT_ARITHMETIC),
            }
        )
        by_operator = {name: int(count) for name, count in analysis.by_operator().items() if count}
        params = parameter_count(network)
        uncounted = dict(sorted(analysis.unsupported_ops().items()))
    found = FvcoreCounts(
        params=int(params[""]),
        flops=int(analysis.total()),
        flops_by_operator=dict(sorted(by_operator.items())),
        flops_by_module={name: int(count) for name, count in analysis.by_module().items()},
        params_by_module={name: int(count) for name, count in params.items()},
        uncounted=uncounted,
    )
    if found.doubtful:
        named = ", ".join(f"{name} ({times} times)" for name, times in found.doubtful.items())
        warnings.warn(f"the count leaves out operators that may multiply: {named}", AutoformerWarning, stacklevel=2)
    return found


def _count_attention(inputs: list[Any], outputs: list[Any]) -> int:
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])  # [..., N, K], [..., S, K], [..., S, V]
    return int(math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _count_matmul(inputs: list[Any], outputs: list[Any]) -> int:
    left, right = (get_shape(tensor) for tensor in inputs)
    if len(right) == 1:  # matrix times vector
        return math.prod(left)
    if len(left) == 1:  # vector times matrix
        return math.prod(right)
    return int(matmul_flop_jit(inputs, outputs))


@contextmanager
def _canonical(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, uncompiled, and every relative attention in the bias form, for a while."""
    training = {module: module.training for module in network.modules()}
    forms = {module: module.form for module in network.modules() if isinstance(module, Attention)}
    compiled = {module: module._compiled_call_impl for module in training}  # what `compile_blocks` leaves; cannot be traced
    try:
        network.eval()
        for attention in forms:
            attention.form = "bias"
        for module in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for attention, form in forms.items():
            attention.form = form
        for module, call in compiled.items():
            module._compiled_call_impl = call
        for module, mode in training.items():
            module.training = mode
