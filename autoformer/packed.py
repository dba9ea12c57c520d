"""Class numbers as text, for JSON and databases."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def packed(classes: NDArray[np.int64]) -> str:
    """Class numbers [n] as hexadecimal digits: little-endian, each in the fewest of 1, 2 or 4 bytes that hold the largest."""
    size = next(size for size in (1, 2, 4) if classes.max(initial=0) < 256**size)
    return classes.astype(f"<u{size}").tobytes().hex()


def unpacked(digits: str, count: int) -> NDArray[np.int64]:
    """The `count` class numbers that `packed` wrote. Raises `ValueError` for digits of another number of classes."""
    held = bytes.fromhex(digits)
    size = next((size for size in (1, 2, 4) if size * count == len(held)), None)
    if size is None:
        raise ValueError(f"{len(held)} bytes of guesses for {count} images")
    return np.frombuffer(held, f"<u{size}").astype(np.int64)
