"""`Unfilled`: networks made without their initial weights, for whoever fills them right afterwards.

On the meta device nothing is stored, but torch works out the shapes of every step of an initialisation in Python all the same,
which takes longer than all the rest of making a network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

FILLING = ("uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_", "trunc_normal_")


class Unfilled(TorchFunctionMode):
    """While it is on, tensors on the meta device are left as they are by what fills others."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in FILLING and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))
