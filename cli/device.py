"""`--device`: which GPU a command sees, or none. Said before torch looks for GPUs; processes that it starts see the same."""

from __future__ import annotations

import os
import re

from autoformer.errors import RecipeError, short

VISIBLE = "CUDA_VISIBLE_DEVICES"


def choose_device(words: str) -> None:
    """Hides all GPUs for `cpu`, and all but one for `cuda:N`; `cuda` only asks that there be one.

    N counts those that are visible so far. Raises `RecipeError` for other words and for a GPU that is not there.
    """
    match = re.fullmatch(r"cpu|cuda(?::([0-9]{1,3}))?", words)
    if match is None:
        raise RecipeError(f"device {short(words, 40)!r} is not understood; write cpu, cuda or cuda:1")
    if words == "cpu":
        os.environ[VISIBLE] = ""
        return
    if match[1] is not None:
        number, visible = int(match[1]), os.environ.get(VISIBLE)
        names = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
        if names is not None and number >= len(names):
            raise RecipeError(f"device {words}: {VISIBLE} shows {len(names)} GPUs; choose another, or --device cpu")
        os.environ[VISIBLE] = str(number) if names is None else names[number]
    import torch

    if not torch.cuda.is_available():
        raise RecipeError(f"device {words}: torch sees no such GPU here; leave --device out, or say --device cpu")
