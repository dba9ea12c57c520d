"""`Architecture`: the one value that travels through search, extraction, finetuning, export and measurement.

It names the choices of one subnet of an AutoFormer supernet (ICCV 2021, arXiv 2107.00651, section 3.2): one embedding
width for the whole network, and per block the number of heads and the MLP ratio; the depth is the number of blocks. The
width of query, key and value follows from the heads (heads × head width of the space).

A space may ask for more: the size of the patches, the depth of a convolutional stem, a depthwise convolution inside a block's
MLP, and a place after which the grid of patches is halved. What its space does not ask for, an architecture does not name.

`SubnetGeometry` is what the same network has beside its choices: sizes in pixels and channels, kinds of positions, the pooling;
`Anatomy`, a part of it, is what families of vision transformers do in different ways.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from autoformer.errors import ArchitectureError, CheckpointError, short

FORMAT = "autoformer/architecture/1"
INIT_STD = 0.02  # of fresh weights: truncated normal, official code

# The largest sizes that are believed; far beyond any network, and small enough that a damaged file cannot exhaust a machine.
MAX_EMBED_DIM, MAX_HEADS, MAX_DEPTH, MAX_IMAGE_SIZE, MAX_MLP_RATIO = 65_536, 1024, 1024, 8192, 1000.0
LARGEST_SIZES = {
    "head_dim": 4096,
    "patch_size": 1024,
    "stem_dim": 4096,
    "in_chans": 1024,
    "num_classes": 10_000_000,
    "max_relative_position": MAX_IMAGE_SIZE,
}

MAX_KERNEL, MAX_STEM_DEPTH, MAX_REGISTERS = 15, 64, 1024

# Exact; tanh's approximation; x · sigmoid(1.702 x), of the first CLIP; x · sigmoid(x), of gated MLPs.
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]

# The flat form that timm and `config.json` know: these of the architecture, those of the geometry, and options of `Subnet`.
CHOICES = ("embed_dim", "num_heads", "mlp_ratio", "stem_depth", "mlp_kernel", "pool_after")
SEARCHED = {"searched_size": "image_size", "searched_patch": "patch_size", "searched_head": "head_dim"}  # of both, if chosen
ASKED_FOR = ("patch_size", "head_dim", "stem_depth", "mlp_kernel", "pool_after")  # in no form unless the space asks for them
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


def is_kernel(value: object) -> bool:
    """Whether `value` is the side of a convolution that sees neighbours and keeps the grid: odd from 3 on, or 0 for none."""
    return value == 0 or (is_whole(value, MAX_KERNEL, least=3) and isinstance(value, int) and value % 2 == 1)


def is_list_of_numbers(value: object) -> bool:
    """Whether `value` is a sequence of nothing but numbers. A text is not, although its letters could be read as digits."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes) and all(is_number(item) for item in value)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The choices of one subnet. Equal values are equal architectures; hashable.

    `image_size` is the side of the (square) input in pixels; None means the one size of the space. The last five are None where
    the space does not ask for them. Without heads a block has no attention, with an MLP ratio of 0 no MLP.
    Raises `ArchitectureError` when the lists differ in length, or hold something that is not positive or beyond belief.
    """

    embed_dim: int
    num_heads: tuple[int, ...]  # per block
    mlp_ratio: tuple[float, ...]  # per block; the hidden width is int(embed_dim × ratio), as in the official code
    image_size: int | None = None  # pixels
    patch_size: int | None = None  # pixels
    head_dim: int | None = None  # channels per head
    stem_depth: int | None = None  # convolutions of a convolutional stem beside those that halve
    mlp_kernel: tuple[int, ...] | None = None  # per block: side of the MLP's depthwise convolution; 0: it has none
    pool_after: int | None = None  # blocks before the grid is halved; 0: it never is

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
        asked = [(name, getattr(self, name), LARGEST_SIZES[name]) for name in ("patch_size", "head_dim")]
        for name, size, most in (*sizes, *(one for one in asked if one[1] is not None)):
            if not is_whole(size, most) and not (name == "image_size" and self.image_size is None):
                raise ArchitectureError(f"{name} must be positive whole numbers up to {most}, got {str(size)[:40]}")
        if odd := [heads for heads in self.num_heads if not is_whole(heads, MAX_HEADS, least=0)]:
            raise ArchitectureError(f"num_heads must be whole numbers from 0 to {MAX_HEADS}, got {str(odd[0])[:40]}")
        self._check_asked_for()
        if not all(0 <= ratio < MAX_MLP_RATIO for ratio in self.mlp_ratio):
            raise ArchitectureError(f"mlp_ratio must be from 0 to below 1000 in every block, got {self.mlp_ratio}")
        if thin := [ratio for ratio, hidden in zip(self.mlp_ratio, self.hidden_dims, strict=True) if ratio and not hidden]:
            raise ArchitectureError(f"mlp_ratio {thin[0]:g} of embed_dim {self.embed_dim} leaves an MLP without a hidden channel")

    def _check_asked_for(self) -> None:
        """Raises `ArchitectureError` for an impossible stem, kernel or place of the halving."""
        for name, most in (("stem_depth", MAX_STEM_DEPTH), ("pool_after", self.depth - 1)):
            if (value := getattr(self, name)) is not None and not is_whole(value, most, least=0):
                raise ArchitectureError(f"{name} must be a whole number from 0 to {most}, got {short(value, 40)}")
        if self.mlp_kernel is None:
            return
        if not is_list_of_numbers(self.mlp_kernel) or len(self.mlp_kernel) != self.depth:
            raise ArchitectureError(
                f"mlp_kernel must be a list of {self.depth} numbers, one per block; got {short(self.mlp_kernel, 40)}"
            )
        object.__setattr__(self, "mlp_kernel", tuple(self.mlp_kernel))
        if odd := [kernel for kernel in self.mlp_kernel if not is_kernel(kernel)]:
            raise ArchitectureError(f"mlp_kernel must be 0, or odd from 3 to {MAX_KERNEL}, got {short(odd[0], 40)}")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.num_heads)

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """Width of each block's MLP, truncated as in the official code."""
        return tuple(int(self.embed_dim * ratio) for ratio in self.mlp_ratio)

    @property
    def kernels(self) -> tuple[int, ...]:
        """Side of each block's depthwise convolution; 0 where it has none."""
        return (0,) * self.depth if self.mlp_kernel is None else self.mlp_kernel

    @property
    def halved_after(self) -> int:
        """Blocks that see the whole grid of patches: all, unless it is halved."""
        return self.pool_after or self.depth

    @property
    def asked_for(self) -> list[str]:
        """What only some spaces ask for, in words for people; none where this network names none of it."""
        found = [] if self.patch_size is None else [f"patch {self.patch_size} px"]
        found += [] if self.head_dim is None else [f"head width {self.head_dim}"]
        found += [] if self.stem_depth is None else [f"stem depth {self.stem_depth}"]
        found += [] if self.mlp_kernel is None else [f"MLP kernels {','.join(map(str, self.mlp_kernel))}"]
        return found + ([f"grid halved after block {self.pool_after}"] if self.pool_after else [])

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
        asked_for = {name: value for name in ASKED_FOR if (value := getattr(self, name)) is not None}
        return {
            "format": FORMAT,
            "embed_dim": self.embed_dim,
            "num_heads": list(self.num_heads),
            "mlp_ratio": list(self.mlp_ratio),
            "image_size": self.image_size,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in asked_for.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """Reads the JSON form. Raises `ArchitectureError` when it is not an object, and on unknown or missing keys."""
        if not isinstance(values, Mapping):
            raise ArchitectureError(f"not an architecture: a {type(values).__name__}, expected a JSON object")
        known = {"embed_dim", "num_heads", "mlp_ratio", "image_size"}
        unknown = set(values) - known - {"format", *ASKED_FOR}
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
                **{name: values[name] for name in ASKED_FOR if name in values},
            )
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, ArchitectureError):
                raise
            raise ArchitectureError(f"not an architecture: {error}") from error

    def __str__(self) -> str:
        heads, ratios = ",".join(map(str, self.num_heads)), ",".join(f"{ratio:g}" for ratio in self.mlp_ratio)
        size = "" if self.image_size is None else f", image {self.image_size} px"
        asked_for = "".join(f", {words}" for words in self.asked_for)
        return f"width {self.embed_dim}, depth {self.depth}, heads {heads}, MLP ratios {ratios}{size}{asked_for}"


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What families of vision transformers do in different ways and no search chooses. Names are those of timm's arguments.

    By default it is the article's, and then no file names it.
    """

    class_token: bool = True  # False: no token but the patches and registers
    reg_tokens: int = 0  # registers: learned tokens between the class token and the patches
    distilled: bool = False  # DeiT's distillation token, the first register, which a classifier of tokens reads as well
    pre_norm: bool = False  # a LayerNorm before the blocks, as CLIP has it
    final_norm: bool = True  # a LayerNorm after the blocks
    fc_norm: bool = False  # that LayerNorm takes the pooled features instead of the tokens
    act_layer: Activation = "gelu"  # of the MLPs
    gated_mlp: bool = False  # MLPs multiply with a second layer of the same width, which takes the activation (SwiGLU)
    scale_mlp_norm: bool = False  # a LayerNorm inside the MLPs, of the hidden channels
    scale_attn_norm: bool = False  # a LayerNorm inside attention, of all heads
    rope: Literal["", "index", "centre"] = ""  # rotary positions, by the number of a row or by its place from -1 to 1
    rope_temperature: float = 10_000.0  # the largest frequency over the smallest, nearly
    rope_offset: float = 0.0  # patches; added to their numbers
    rope_reference: int = 0  # patches a side of a grid that numbers are scaled to; 0: as they are

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches."""
        return int(self.class_token) + self.reg_tokens

    @property
    def norms(self) -> dict[str, str]:
        """LayerNorms outside of the blocks: by their names in one network (timm's) those in a supernet."""
        last = {"fc_norm" if self.fc_norm else "norm": "norm"} if self.final_norm else {}
        return {"norm_pre": "norm_pre", **last} if self.pre_norm else last

    @property
    def contradiction(self) -> str | None:
        """The first value that no network has, in words; None where all go together."""
        for name, default in ANATOMY.items():
            if isinstance(default, bool) and not isinstance(flag := getattr(self, name), bool):
                return f"{name} must be true or false, got {short(repr(flag), 40)}"
        if not is_whole(self.reg_tokens, MAX_REGISTERS, least=0):
            return f"reg_tokens must be a whole number from 0 to {MAX_REGISTERS}, got {short(repr(self.reg_tokens), 40)}"
        if self.act_layer not in get_args(Activation):
            return f"act_layer is {short(repr(self.act_layer), 40)}, expected one of {', '.join(get_args(Activation))}"
        if self.distilled and not (self.class_token and self.reg_tokens):
            return "distilled reads a class token and the first of reg_tokens; set class_token=true and reg_tokens=1, say"
        if self.fc_norm and not self.final_norm:
            return "fc_norm places the norm that final_norm=false leaves out; set final_norm=true"
        return self._odd_rotation()

    def _odd_rotation(self) -> str | None:
        if self.rope not in ("", "index", "centre"):
            return f"rope is {short(repr(self.rope), 40)}, expected 'index', 'centre' or ''"
        if not is_number(self.rope_temperature) or not 1 < self.rope_temperature < 1e9:
            return f"rope_temperature must be a number from 1 to 1e9, got {short(repr(self.rope_temperature), 40)}"
        if not is_number(self.rope_offset) or not -MAX_IMAGE_SIZE <= self.rope_offset <= MAX_IMAGE_SIZE:
            return f"rope_offset must be a number of patches, got {short(repr(self.rope_offset), 40)}"
        if not is_whole(self.rope_reference, MAX_IMAGE_SIZE, least=0):
            return f"rope_reference must be a whole number of patches, got {short(repr(self.rope_reference), 40)}"
        if self.rope and is_whole(heads := getattr(self, "head_dim", 4), 1 << 20) and heads % 4:
            return f"rope turns pairs of channels for rows and columns; head_dim must be a multiple of 4, got {heads}"
        return None


ANATOMY: dict[str, Any] = {field.name: field.default for field in fields(Anatomy)}


@dataclass(frozen=True, kw_only=True)
class SubnetGeometry(Anatomy):
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
    stem: Literal["patch", "conv"] = "patch"  # conv: 3 × 3 convolutions of stride 2 down to the patches, then a 1 × 1
    stem_dim: int = 32  # channels of a convolutional stem

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
        if odd := self.contradiction:
            raise ArchitectureError(odd)
        if not is_number(self.norm_eps) or not 0 <= self.norm_eps < 1:
            raise ArchitectureError(f"norm_eps must be from 0 to below 1, got {short(self.norm_eps, 40)}")
        if self.global_pool not in ("avg", "token", ""):
            raise ArchitectureError(f"global_pool is {short(repr(self.global_pool), 40)}, expected 'avg', 'token' or ''")
        check_stem(self.stem, (self.patch_size,))
        if not self.class_token and self.global_pool == "token":
            raise ArchitectureError("global_pool is 'token' for a network without a class token, expected 'avg' or ''")

    # --- the flat form -------------------------------------------------------------------------------------------

    def arguments(self, architecture: Architecture) -> dict[str, Any]:
        """Architecture and geometry as timm's arguments; JSON."""
        own = {name: value for name, value in asdict(architecture).items() if name not in SEARCHED.values()}
        values = {**asdict(self), **own, **{flat: getattr(architecture, name) for flat, name in SEARCHED.items()}}
        for name, default in LEFT_OUT.items():
            if values[name] == default:
                del values[name]
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
        own = {"image_size": geometry.img_size[0], "patch_size": geometry.patch_size, "head_dim": geometry.head_dim}
        searched = {name: own[name] for flat, name in SEARCHED.items() if values.get(flat) is not None}
        choices = {name: values[name] for name in CHOICES if name in values}
        return Architecture.from_dict({**choices, **searched}), geometry

    @classmethod
    def of_file(cls, values: object) -> tuple[Architecture, SubnetGeometry]:
        """As `of_arguments`, from a file: sizes must agree, and no keys but `OPTIONS` may stand beside them.

        Raises `CheckpointError` or `ArchitectureError`.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError(f"model_args is a {type(values).__name__}, expected a JSON object")
        known = {*CHOICES, *SEARCHED, *(field.name for field in fields(cls)), *OPTIONS}
        if unknown := sorted(set(values) - known):
            raise CheckpointError(f"model_args has unknown keys {short(unknown)}; known are {sorted(known)}")
        architecture, own = cls.of_arguments(values)
        if (searched := values.get("searched_size")) is not None and (searched, searched) != own.img_size:
            given = short(values.get("img_size"), 40)
            raise CheckpointError(f"searched_size {short(searched, 40)} contradicts img_size {given}; they must be equal")
        for flat in ("searched_patch", "searched_head"):
            if (searched := values.get(flat)) not in (None, size := getattr(own, SEARCHED[flat])):
                given = f"{short(searched, 40)} contradicts {SEARCHED[flat]} {size}"
                raise CheckpointError(f"{flat} {given}; they must be equal")
        grid = tuple(side // own.patch_size for side in own.img_size)
        if any(side % own.patch_size for side in own.img_size):
            raise CheckpointError(f"img_size must be a multiple of patch_size {own.patch_size}, got {short(own.img_size, 40)}")
        if own.trained_grid is not None and any(stored < side for stored, side in zip(own.trained_grid, grid, strict=True)):
            raise CheckpointError(f"trained_grid must hold the {grid[0]}×{grid[1]} patches of its images, got {own.trained_grid}")
        return architecture, own


# Of the flat form: what is left out where it has this value, so that a network without it is described as ever.
LEFT_OUT = {
    "stem": "patch", "stem_dim": 32, "searched_patch": None, "searched_head": None, "stem_depth": None, "mlp_kernel": None,
    "pool_after": None, **ANATOMY,
}  # fmt: skip


def check_stem(stem: object, patch_sizes: Sequence[int]) -> None:
    """Raises `ArchitectureError` for a stem that is not known, or convolutions of stride 2 that do not reach the patches."""
    if stem not in ("patch", "conv"):
        raise ArchitectureError(f"stem is {short(repr(stem), 40)}, expected 'patch' or 'conv'")
    if odd := [size for size in patch_sizes if stem == "conv" and (size < 2 or size & (size - 1))]:
        raise ArchitectureError(f"a convolutional stem halves images, so its patch sizes are 2, 4, 8, 16 ... px, got {odd[0]}")


def halvings_of(patch_size: int) -> int:
    """How many convolutions of stride 2 lead to patches of this size."""
    return patch_size.bit_length() - 1


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
