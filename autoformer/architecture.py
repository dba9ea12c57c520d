"""`Architecture`: the one value that travels through search, extraction, finetuning, export and measurement.

It names the choices of one subnet of an AutoFormer supernet (ICCV 2021, arXiv 2107.00651, section 3.2): one embedding
width for the whole network, and per block the number of heads and the MLP ratio; the depth is the number of blocks. The
width of query, key and value follows from the heads (heads × head width of the space).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoformer.errors import ArchitectureError, short

FORMAT = "autoformer/architecture/1"

# The largest sizes that are believed; far beyond any network, and small enough that a damaged file cannot exhaust a machine.
MAX_EMBED_DIM, MAX_HEADS, MAX_DEPTH, MAX_IMAGE_SIZE, MAX_MLP_RATIO = 65_536, 1024, 1024, 8192, 1000.0


def is_whole(value: object, most: int, least: int = 1) -> bool:
    """Whether `value` is a whole number (no bool) from `least` to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def whole_number(words: str) -> int | None:
    """The whole number that `words` are, up to nine digits; None for others. Python itself fails at thousands of digits."""
    return int(words) if words.isdecimal() and len(words) < 10 else None


def is_number(value: object) -> bool:
    """Whether `value` is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_list_of_numbers(value: object) -> bool:
    """Whether `value` is a sequence of nothing but numbers. A text is none, although its letters could be read as digits."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes) and all(is_number(item) for item in value)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The choices of one subnet. Equal values are equal architectures; hashable.

    `image_size` is the side of the (square) input in pixels; None means the one size of the space.
    Raises `ArchitectureError` when the lists differ in length, or hold something that is not positive or beyond belief.
    """

    embed_dim: int
    num_heads: tuple[int, ...]  # per block
    mlp_ratio: tuple[float, ...]  # per block; the hidden width is int(embed_dim × ratio), as in the official code
    image_size: int | None = None  # pixels

    def __post_init__(self) -> None:
        for name in ("num_heads", "mlp_ratio"):
            if not is_list_of_numbers(getattr(self, name)):
                given = repr(getattr(self, name))[:40]
                raise ArchitectureError(f"not an architecture: {name} must be a list of numbers, one per block; got {given}")
        object.__setattr__(self, "num_heads", tuple(self.num_heads))
        object.__setattr__(self, "mlp_ratio", tuple(float(ratio) for ratio in self.mlp_ratio))
        if len(self.num_heads) != len(self.mlp_ratio) or not self.num_heads:
            raise ArchitectureError(
                f"architecture has {len(self.num_heads)} entries in num_heads and {len(self.mlp_ratio)} in mlp_ratio; "
                "give one of each per block, and at least one block"
            )
        if self.depth > MAX_DEPTH:
            raise ArchitectureError(f"architecture has {self.depth} blocks, expected at most {MAX_DEPTH}")
        sizes = [("embed_dim", self.embed_dim, MAX_EMBED_DIM), ("image_size", self.image_size or 0, MAX_IMAGE_SIZE)]
        sizes += [("num_heads", heads, MAX_HEADS) for heads in self.num_heads]
        for name, size, most in sizes:
            if not is_whole(size, most) and not (name == "image_size" and self.image_size is None):
                raise ArchitectureError(f"{name} must be positive whole numbers up to {most}, got {str(size)[:40]}")
        if not all(0 < ratio < MAX_MLP_RATIO for ratio in self.mlp_ratio):
            raise ArchitectureError(f"mlp_ratio must be positive in every block and below 1000, got {self.mlp_ratio}")
        if min(self.hidden_dims) < 1:
            raise ArchitectureError(
                f"mlp_ratio {min(self.mlp_ratio):g} of embed_dim {self.embed_dim} leaves an MLP without a hidden channel"
            )

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.num_heads)

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """Width of each block's MLP, truncated as in the official code."""
        return tuple(int(self.embed_dim * ratio) for ratio in self.mlp_ratio)

    @property
    def slug(self) -> str:
        """Short name for files and tables: width, depth and eight digits of a digest over all choices."""
        size = "" if self.image_size is None else f"-r{self.image_size}"
        return f"e{self.embed_dim}-d{self.depth}{size}-{self.digest[:8]}"

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        return {
            "format": FORMAT,
            "embed_dim": self.embed_dim,
            "num_heads": list(self.num_heads),
            "mlp_ratio": list(self.mlp_ratio),
            "image_size": self.image_size,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """Reads the JSON form. Raises `ArchitectureError` when it is no object, and on unknown or missing keys."""
        if not isinstance(values, Mapping):
            raise ArchitectureError(f"not an architecture: a {type(values).__name__}, expected a JSON object")
        known = {"embed_dim", "num_heads", "mlp_ratio", "image_size"}
        unknown = set(values) - known - {"format"}
        missing = known - {"image_size"} - set(values)
        if unknown or missing or values.get("format", FORMAT) != FORMAT:
            raise ArchitectureError(
                f"not an architecture: unknown keys {short(sorted(unknown))}, missing keys {sorted(missing)}, "
                f"format {values.get('format', FORMAT)!r}; expected {FORMAT!r} with {sorted(known)}"
            )
        try:
            return cls(
                embed_dim=values["embed_dim"],
                num_heads=values["num_heads"],
                mlp_ratio=values["mlp_ratio"],
                image_size=values.get("image_size"),
            )
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, ArchitectureError):
                raise
            raise ArchitectureError(f"not an architecture: {error}") from error

    def __str__(self) -> str:
        heads, ratios = ",".join(map(str, self.num_heads)), ",".join(f"{ratio:g}" for ratio in self.mlp_ratio)
        size = "" if self.image_size is None else f", image {self.image_size} px"
        return f"width {self.embed_dim}, depth {self.depth}, heads {heads}, MLP ratios {ratios}{size}"


# The published subnets (official repository, experiments/subnet/AutoFormer-{T,S,B}.yaml, section RETRAIN).
PUBLISHED: dict[str, Architecture] = {
    "AutoFormer-T": Architecture(
        embed_dim=192,
        num_heads=(3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 3, 3),
        mlp_ratio=(3.5, 3.5, 3.0, 3.5, 3.0, 3.0, 4.0, 4.0, 3.5, 4.0, 3.5, 4.0, 3.5),
    ),
    "AutoFormer-S": Architecture(
        embed_dim=384,
        num_heads=(6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7),
        mlp_ratio=(3.0, 3.5, 3.0, 3.5, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 3.5, 4.0),
    ),
    "AutoFormer-B": Architecture(
        embed_dim=576,
        num_heads=(9, 9, 9, 9, 9, 10, 9, 9, 10, 9, 10, 9, 9, 10),
        mlp_ratio=(3.5, 3.5, 4.0, 3.5, 4.0, 3.5, 3.5, 3.0, 4.0, 4.0, 3.0, 4.0, 3.0, 3.5),
    ),
}
PUBLISHED_SPACES = {"AutoFormer-T": "tiny", "AutoFormer-S": "small", "AutoFormer-B": "base"}
