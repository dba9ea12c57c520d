"""`Architecture`: the one value that travels through search, extraction, finetuning, export and measurement.

It names the choices of one subnet of an AutoFormer supernet (ICCV 2021, arXiv 2107.00651, section 3.2): one embedding
width for the whole network, and per block the number of heads and the MLP ratio; the depth is the number of blocks. The
width of query, key and value follows from the heads (heads × head width of the space).

`SubnetGeometry` is what the same network has beside its choices: sizes in pixels and channels, kinds of positions, the pooling.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from autoformer.errors import ArchitectureError, CheckpointError, short

FORMAT = "autoformer/architecture/1"

# The largest sizes that are believed; far beyond any network, and small enough that a damaged file cannot exhaust a machine.
MAX_EMBED_DIM, MAX_HEADS, MAX_DEPTH, MAX_IMAGE_SIZE, MAX_MLP_RATIO = 65_536, 1024, 1024, 8192, 1000.0
LARGEST_SIZES = {
    "head_dim": 4096,
    "patch_size": 1024,
    "in_chans": 1024,
    "num_classes": 10_000_000,
    "max_relative_position": MAX_IMAGE_SIZE,
}

# The flat form that timm and `config.json` know: these of the architecture, those of the geometry, and options of `Subnet`.
CHOICES = ("embed_dim", "num_heads", "mlp_ratio")
OPTIONS = ("drop_rate", "drop_path_rate", "super_depth", "form")


def is_whole(value: object, most: int, least: int = 1) -> bool:
    """Whether `value` is a whole number (no bool) from `least` to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def whole_number(words: str) -> int | None:
    """The whole number that `words` are, up to nine digits; None for others. Python itself fails at thousands of digits."""
    return int(words) if words.isdecimal() and len(words) < 10 else None


def is_number(value: object) -> bool:
    """Whether `value` is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_list_of_numbers(value: object) -> bool:
    """Whether `value` is a sequence of nothing but numbers. A text is not, although its letters could be read as digits."""
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
        """Reads the JSON form. Raises `ArchitectureError` when it is not an object, and on unknown or missing keys."""
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


@dataclass(frozen=True, kw_only=True)
class SubnetGeometry:
    """The sizes and kinds of one network beside its `Architecture`. Names are those of timm's arguments.

    `img_size` and `trained_grid` may be given as one number, which stands for a square. Raises `ArchitectureError` for a value
    that no network has.
    """

    img_size: tuple[int, int] = (224, 224)  # rows and columns in pixels
    patch_size: int = 16  # pixels
    in_chans: int = 3
    num_classes: int = 1000  # 0: a network that ends with its features
    head_dim: int = 64  # channels per head
    max_relative_position: int = 14  # distances beyond it share one row of the tables
    trained_grid: tuple[int, int] | None = None  # the farthest rows and columns of patches that the tables were trained on
    relative_position: bool = True
    absolute_position: bool = True
    global_pool: Literal["avg", "token", ""] = "avg"  # "": tokens are classified one by one
    norm_eps: float = 1e-5
    scale_by_width: bool = False  # the official code's logit scale for a fixed width of query, key and value

    def __post_init__(self) -> None:
        for name, most in LARGEST_SIZES.items():
            if not is_whole(size := getattr(self, name), most, least=0 if name == "num_classes" else 1):
                raise ArchitectureError(f"{name} must be a whole number up to {most}, got {short(size, 40)}")
        object.__setattr__(self, "img_size", _pair("img_size", self.img_size))
        if self.trained_grid is not None:
            object.__setattr__(self, "trained_grid", _pair("trained_grid", self.trained_grid))
        for name in ("relative_position", "absolute_position", "scale_by_width"):
            if not isinstance(flag := getattr(self, name), bool):
                raise ArchitectureError(f"{name} must be true or false, got {short(flag, 40)}")
        if not is_number(self.norm_eps) or not 0 <= self.norm_eps < 1:
            raise ArchitectureError(f"norm_eps must be from 0 to below 1, got {short(self.norm_eps, 40)}")
        if self.global_pool not in ("avg", "token", ""):
            raise ArchitectureError(f"global_pool is {short(repr(self.global_pool), 40)}, expected 'avg', 'token' or ''")

    # --- the flat form -------------------------------------------------------------------------------------------

    def arguments(self, architecture: Architecture) -> dict[str, Any]:
        """Architecture and geometry as timm's arguments; JSON."""
        values = {**asdict(self), **asdict(architecture), "searched_size": architecture.image_size}
        del values["image_size"]
        for name in ("img_size", "trained_grid"):
            if values[name] is not None and values[name][0] == values[name][1]:
                values[name] = values[name][0]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def of_arguments(cls, values: Mapping[str, Any]) -> tuple[Architecture, SubnetGeometry]:
        """Architecture and geometry from timm's arguments; others are passed over. Raises `ArchitectureError`.

        timm changes `img_size` alone, so where the architecture names an image size, that is it.
        """
        names = {field.name for field in fields(cls)}
        geometry = cls(**{name: value for name, value in values.items() if name in names})
        size = None if values.get("searched_size") is None else geometry.img_size[0]
        choices = {name: values[name] for name in CHOICES if name in values}
        return Architecture.from_dict({**choices, "image_size": size}), geometry

    @classmethod
    def of_file(cls, values: object) -> tuple[Architecture, SubnetGeometry]:
        """As `of_arguments`, from a file: sizes must agree, and no keys but `OPTIONS` may stand beside them.

        Raises `CheckpointError` or `ArchitectureError`.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError(f"model_args is a {type(values).__name__}, expected a JSON object")
        known = {*CHOICES, "searched_size", *(field.name for field in fields(cls)), *OPTIONS}
        if unknown := sorted(set(values) - known):
            raise CheckpointError(f"model_args has unknown keys {short(unknown)}; known are {sorted(known)}")
        architecture, own = cls.of_arguments(values)
        if (searched := values.get("searched_size")) is not None and (searched, searched) != own.img_size:
            given = short(values.get("img_size"), 40)
            raise CheckpointError(f"searched_size {short(searched, 40)} contradicts img_size {given}; they must be equal")
        grid = tuple(side // own.patch_size for side in own.img_size)
        if any(side % own.patch_size for side in own.img_size):
            raise CheckpointError(f"img_size must be a multiple of patch_size {own.patch_size}, got {short(own.img_size, 40)}")
        if own.trained_grid is not None and any(stored < side for stored, side in zip(own.trained_grid, grid, strict=True)):
            raise CheckpointError(f"trained_grid must hold the {grid[0]}×{grid[1]} patches of its images, got {own.trained_grid}")
        return architecture, own


def _pair(name: str, sides: object) -> tuple[int, int]:
    """Rows and columns. Raises `ArchitectureError` unless they are whole numbers within belief."""
    both = tuple(sides) if isinstance(sides, list | tuple) else (sides, sides)
    if len(both) != 2 or not all(is_whole(side, MAX_IMAGE_SIZE) for side in both):
        raise ArchitectureError(f"{name} must be one or two whole numbers up to {MAX_IMAGE_SIZE}, got {short(sides, 40)}")
    return both


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
