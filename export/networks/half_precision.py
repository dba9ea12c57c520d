"""fp16: a network whose precision is in the network itself, so that every runtime computes the same.

Weights and activations are half precision, layer normalisations are computed in fp32, images come and logits go in fp32.
Relative position takes the form of one plain attention per layer, which GPUs compute in one kernel. Half precision ends at
65,504: what the activations reach on real images is measured first, and parts of a block that come near it stay in fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from autoformer.errors import ExportError
from autoformer.export.networks.folding import first_conv_of
from autoformer.networks.block import Attention

LARGEST = 65504.0  # of half precision
HEADROOM = 8.0  # other images than those measured may reach higher
MEASURED_BATCH = 32
FILLING = (
    torch.ops.aten.pad.default,
    torch.ops.aten.constant_pad_nd.default,
    torch.ops.aten.masked_fill.Scalar,
    torch.ops.aten.full.default,
)


class InFloat32(nn.Module):
    """A part that computes in fp32 within a half precision network."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        found: Tensor = self.part(x.float(), *more)
        return found.half()


class HalfPrecision(nn.Module):
    """`network` in half precision with the parts named in `kept` in fp32; fp32 images to fp32 logits.

    With its first convolution among the parts it takes the images as they are: pixels would lose digits in half precision, and
    weights that are to be multiplied by pixels reach below its normal numbers.
    """

    def __init__(self, network: nn.Module, kept: tuple[str, ...] = ()) -> None:
        super().__init__()
        exact = plain_attention(network).float()
        norms = [name for name, module in exact.named_modules() if isinstance(module, nn.LayerNorm)]
        single = [name for name in norms if not any(name.startswith(f"{part}.") for part in kept)]
        parts = {name: InFloat32(copy.deepcopy(exact.get_submodule(name))) for name in (*single, *kept)}
        self.kept = kept
        self.rounds_images = first_conv_of(network) not in kept
        self.network = exact.half()
        for name, part in parts.items():  # with the weights as they were before rounding
            parent, _, child = name.rpartition(".")
            setattr(self.network.get_submodule(parent), child, part)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.half() if self.rounds_images else images)
        return logits.float()


def plain_attention(network: nn.Module) -> nn.Module:
    """A copy whose relative position is one plain attention per layer, without a mask (the form `fused`)."""
    copied = copy.deepcopy(network)
    for module in copied.modules():
        if isinstance(module, Attention):
            module.form = "fused"
    return copied


@dataclass(frozen=True)
class Peaks:
    """The largest magnitudes of weights, and of activations on some images."""

    inside: Mapping[str, float]  # of anything a module holds or computes, by its name; "" for the network itself
    given: Mapping[str, float]  # of what an attention or MLP as a whole gives to the rest, by its name
    images: int

    @property
    def largest(self) -> float:
        """Of everything."""
        return max(self.inside.values())

    def to_keep(self) -> tuple[str, ...]:
        """The parts of blocks that should stay in fp32. Raises `ExportError` when what passes between parts is too large."""
        limit = LARGEST / HEADROOM
        kept: dict[str, None] = {}
        for name, peak in self.inside.items():
            part = part_of(name)
            if peak <= limit:
                continue
            if part is None or self.given[part] > limit:
                raise ExportError(
                    f"values reach {peak:.3g} in {name or 'the network'} on {self.images} images; half precision ends at "
                    f"{LARGEST:,.0f}, and other images may reach {HEADROOM:g} times as high; use fp32, or bfloat16 on the device"
                )
            kept[part] = None
        return tuple(kept)


def part_of(name: str) -> str | None:
    """The attention or MLP of a block that a module is, or lies in; None for everything else."""
    words = name.split(".")
    return ".".join(words[:3]) if len(words) >= 3 and words[0] == "blocks" and words[2] in ("attn", "mlp") else None


def measure_peaks(network: nn.Module, images: NDArray[np.float32]) -> Peaks:
    """What weights and activations of `network` (in the form that is exported) reach on preprocessed images [n, C, H, W]."""
    plain = plain_attention(network).float().cpu().eval()
    watch = _Watch()
    with torch.inference_mode(), watch.scopes(plain), watch:
        for start in range(0, len(images), MEASURED_BATCH):
            plain(torch.from_numpy(np.ascontiguousarray(images[start : start + MEASURED_BATCH])))
    for name, module in plain.named_modules():
        for weights in module.parameters(recurse=False):
            watch.inside[name] = max(watch.inside.get(name, 0.0), magnitude(weights))
    return Peaks(watch.inside, watch.given, len(images))


class _Watch(TorchDispatchMode):
    """Notes the largest magnitude that each operation gives, under the innermost module that runs it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inside: dict[str, float] = {}
        self.given: dict[str, float] = {}
        self.stack = [""]

    @contextmanager
    def scopes(self, network: nn.Module) -> Iterator[None]:
        """Follows which module runs while the block does."""
        with ExitStack() as hooks:
            for name, module in network.named_modules():
                hooks.callback(module.register_forward_pre_hook(lambda *_, name=name: self.stack.append(name)).remove)
                hooks.callback(module.register_forward_hook(lambda _, __, out: self._leave(out)).remove)
            yield

    def _leave(self, out: Any) -> None:
        name = self.stack.pop()
        if part_of(name) == name:
            self.given[name] = max(self.given.get(name, 0.0), magnitude(out))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple | list) and out else out  # a normalisation also gives statistics, kept in fp32
        if isinstance(first, Tensor) and first.is_floating_point() and func in FILLING:
            first = first[first.isfinite()]  # padding and masks of -inf are as exact in half precision
        if isinstance(first, Tensor) and first.is_floating_point() and first.numel():
            self.inside[self.stack[-1]] = max(self.inside.get(self.stack[-1], 0.0), magnitude(first))
        return out


def magnitude(values: Tensor) -> float:
    """The largest absolute value; infinite where one is not a number."""
    return float(values.detach().abs().nan_to_num(nan=float("inf")).max())
