"""`Choices`: what a search space leaves open, the numbers all its networks share, and what is checked of both.

`SearchSpace` (space.py) draws, varies and counts networks on top of it.

Beside the article's choices a space may ask for more, all absent by default: several `patch_sizes` out of one weight,
a convolutional `stem` of several depths, depthwise convolutions in the MLPs (`mlp_kernels`), a place after which the
grid of patches is halved (`pool_after`), and several widths of a head (`head_dims`). Weights stay entangled: a patch is
resampled from the stored one, a stem is a prefix of the deepest, a kernel is the centre of the largest, and its channels and
those of a narrow head are prefixes. With 0 among the choices of heads or MLP ratios, blocks may lack their attention or MLP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from autoformer.architecture import (
    LARGEST_SIZES,
    MAX_DEPTH,
    MAX_EMBED_DIM,
    MAX_HEADS,
    MAX_IMAGE_SIZE,
    MAX_KERNEL,
    MAX_MLP_RATIO,
    MAX_STEM_DEPTH,
    Anatomy,
    Architecture,
    check_stem,
    is_kernel,
    is_list_of_numbers,
    is_number,
    is_whole,
)
from autoformer.errors import ArchitectureError

CHOICES = ("embed_dims", "depths", "num_heads", "mlp_ratios", "image_sizes")
BLOCK_CHOICES = ("num_heads", "mlp_ratios")  # 0 of them: a block without attention, without an MLP
OPTIONAL_CHOICES = {  # by default one that changes nothing; the largest number that is believed
    "patch_sizes": LARGEST_SIZES["patch_size"],
    "head_dims": LARGEST_SIZES["head_dim"],
    "stem_depths": MAX_STEM_DEPTH,
    "mlp_kernels": MAX_KERNEL,
    "pool_after": MAX_DEPTH,
}
STORED = {"patch_sizes": "patch_size", "head_dims": "head_dim"}  # the one size that there is where none is listed
FLAGS = ("relative_position", "absolute_position", "any_up_to_largest", "prefix_qkv_bias", "scale_by_width", "mean_shift")

# The largest numbers that are believed, as in `architecture.py`.
LARGEST_CHOICES = {"embed_dims": MAX_EMBED_DIM, "depths": MAX_DEPTH, "num_heads": MAX_HEADS, "image_sizes": MAX_IMAGE_SIZE}


@dataclass(frozen=True, kw_only=True)
class Choices(Anatomy):
    """The choices, and the fixed numbers every network of the space shares.

    Raises `ArchitectureError` when a choice is empty, a number is impossible or beyond belief, or sizes do not divide.
    """

    name: str
    embed_dims: tuple[int, ...]  # one per network
    depths: tuple[int, ...]  # number of blocks
    num_heads: tuple[int, ...]  # per block
    mlp_ratios: tuple[float, ...]  # per block
    image_sizes: tuple[int, ...] = (224,)  # pixels; several make the resolution a dimension of the search
    head_dim: int = 64  # channels per head
    patch_size: int = 16  # pixels
    in_chans: int = 3
    num_classes: int = 1000  # 0: networks that end with pooled features
    max_relative_position: int = 14  # distances beyond it share one row of the tables
    relative_position: bool = True
    absolute_position: bool = True
    pooling: Literal["mean", "token"] = "mean"  # mean over patches (the paper's), or the class token
    norm_eps: float = 1e-5  # the official code's; timm's networks use 1e-6
    super_embed_dim: int | None = None  # width of the stored weights; None: the largest choice
    sharing: Literal["entangled", "classical"] = "entangled"  # classical: independent weights per choice of a block
    any_up_to_largest: bool = False  # members are all sizes the stored weights hold, not only the listed ones
    prefix_qkv_bias: bool = False  # the official code's slicing of the query, key and value bias; for its checkpoints
    scale_by_width: bool = False  # logits × (embed_dim // heads)^-0.5 (official, fixed query width), not head_dim^-0.5
    patch_sizes: tuple[int, ...] = ()  # pixels, of one network; none: `patch_size`, which is the size of the stored weight
    stem: Literal["patch", "conv"] = "patch"  # conv: 3 × 3 convolutions of stride 2 down to the patches, then a 1 × 1
    stem_dim: int = 32  # channels of a convolutional stem
    stem_depths: tuple[int, ...] = (0,)  # further 3 × 3 convolutions of a convolutional stem, of one network
    mlp_kernels: tuple[int, ...] = (0,)  # per block: side of a depthwise convolution inside the MLP; 0: none
    pool_after: tuple[int, ...] = (0,)  # blocks before the grid of patches is halved, of one network; 0: it never is
    head_dims: tuple[int, ...] = ()  # channels per head, of one network; none: `head_dim`, which is that of the stored weights
    mean_shift: bool = False  # heads, head channels and MLP channels that a network lacks leave their mean in the bias behind

    def __post_init__(self) -> None:
        self._check_types()
        for name in CHOICES:
            values = tuple(sorted(set(getattr(self, name))))
            if not values or values[-1] <= 0 or (values[0] <= 0 and name not in BLOCK_CHOICES):
                raise ArchitectureError(f"space {self.name!r}: {name} needs at least one positive choice, got {values}")
            object.__setattr__(self, name, values)
        for name, most in LARGEST_CHOICES.items():
            least = int(name not in BLOCK_CHOICES)
            if odd := [value for value in getattr(self, name) if not is_whole(value, most, least)]:
                raise ArchitectureError(
                    f"space {self.name!r}: {name} takes whole numbers from {least} to {most}, got {str(odd[-1])[:40]}"
                )
        if not all(0 <= ratio < MAX_MLP_RATIO for ratio in self.mlp_ratios):
            given = str(self.mlp_ratios)[:60]
            raise ArchitectureError(f"space {self.name!r}: mlp_ratios must be from 0 to below {MAX_MLP_RATIO:g}, got {given}")
        for name, most in LARGEST_SIZES.items():
            if not is_whole(size := getattr(self, name), most, least=0 if name == "num_classes" else 1):
                raise ArchitectureError(
                    f"space {self.name!r}: {name} must be positive, a whole number up to {most}, got {repr(size)[:40]}"
                )
        thinnest = next(ratio for ratio in self.mlp_ratios if ratio)
        if int(self.embed_dims[0] * thinnest) < 1:
            raise ArchitectureError(
                f"space {self.name!r}: mlp_ratio {thinnest:g} of embed_dim {self.embed_dims[0]} leaves an MLP without "
                "a hidden channel"
            )
        if self.super_embed_dim is not None and not is_whole(self.super_embed_dim, MAX_EMBED_DIM):
            raise ArchitectureError(
                f"space {self.name!r}: super_embed_dim must be a whole number up to {MAX_EMBED_DIM}, "
                f"got {str(self.super_embed_dim)[:40]}"
            )
        if not 0 < self.norm_eps < 1:
            raise ArchitectureError(f"space {self.name!r}: norm_eps must be positive and below 1, got {self.norm_eps}")
        object.__setattr__(self, "mlp_ratios", tuple(float(ratio) for ratio in self.mlp_ratios))
        for size in self.image_sizes:
            if size % self.patch_size:
                raise ArchitectureError(
                    f"space {self.name!r}: image size {size} is not a multiple of patch size {self.patch_size}"
                )
        self._check_optional()
        if self.super_embed_dim is not None and self.super_embed_dim < self.embed_dims[-1]:
            raise ArchitectureError(
                f"space {self.name}: super_embed_dim {self.super_embed_dim} is below the widest choice {self.embed_dims[-1]}"
            )
        if self.scale_by_width and len(self.num_heads) > 1:
            raise ArchitectureError(
                f"space {self.name!r}: scale_by_width belongs to a fixed query width, but num_heads is {self.num_heads}; "
                "give one choice"
            )
        if self.sharing not in ("entangled", "classical"):
            raise ArchitectureError(f"space {self.name!r}: sharing is {self.sharing!r}, expected 'entangled' or 'classical'")
        if self.sharing == "classical" and (self.any_up_to_largest or self.prefix_qkv_bias):
            raise ArchitectureError(
                f"space {self.name!r}: classical sharing stores a block per listed choice; "
                "any_up_to_largest and prefix_qkv_bias belong to entangled weights"
            )
        if self.pooling not in ("mean", "token"):
            raise ArchitectureError(f"space {self.name!r}: pooling is {self.pooling!r}, expected 'mean' or 'token'")
        if not self.class_token and self.pooling == "token":
            raise ArchitectureError(f"space {self.name!r}: pooling is 'token' without a class token; pooling=mean needs none")

    def _check_optional(self) -> None:
        """Raises `ArchitectureError` for what the space asks for beyond the article's choices and cannot have."""
        for name, most in OPTIONAL_CHOICES.items():
            values = tuple(sorted(set(getattr(self, name))))
            if odd := [value for value in values if not is_whole(value, most, least=int(name in STORED))]:
                raise ArchitectureError(f"space {self.name!r}: {name} takes whole numbers up to {most}, got {str(odd[-1])[:40]}")
            if not values and name not in STORED:
                raise ArchitectureError(f"space {self.name!r}: {name} needs at least one choice; (0) is the network without")
            object.__setattr__(self, name, values)
        for name, stored in STORED.items():
            sizes, one = getattr(self, name), getattr(self, stored)
            if sizes == (one,):  # what is the same is equal
                object.__setattr__(self, name, ())
            elif sizes and one not in sizes:
                raise ArchitectureError(
                    f"space {self.name!r}: {stored} {one}, in which the weights are stored, is none of {name} {sizes}"
                )
        if self.head_dims and self.head_dims[-1] > self.head_dim:
            raise ArchitectureError(
                f"space {self.name!r}: head_dim {self.head_dim}, in which the weights are stored, is not the largest of "
                f"head_dims {self.head_dims}"
            )
        if self.stem == "patch":  # which has no channels of its own
            object.__setattr__(self, "stem_dim", Choices.__dataclass_fields__["stem_dim"].default)
        if odd := [kernel for kernel in self.mlp_kernels if not is_kernel(kernel)]:
            raise ArchitectureError(f"space {self.name!r}: mlp_kernels are odd from 3 on, or 0 for none; got {odd[0]}")
        check_stem(self.stem, self.patch_choices)
        if self.stem == "patch" and self.stem_depths != (0,):
            raise ArchitectureError(f"space {self.name!r}: stem_depths {self.stem_depths} belong to stem=conv")
        if self.pool_after[-1] >= self.depths[0]:
            raise ArchitectureError(
                f"space {self.name!r}: pool_after {self.pool_after[-1]} leaves no block after the halving in a network of depth "
                f"{self.depths[0]}; the shallowest depth must be above it"
            )
        for size in self.image_sizes:
            for patch in self.patch_choices:
                if size % patch or (self.pool_after[-1] and size // patch % 2):
                    what = f"{size // patch} patches a side, which cannot be halved" if size % patch == 0 else "no whole patches"
                    step = math.lcm(*self.patch_choices) * (2 if self.pool_after[-1] else 1)
                    raise ArchitectureError(
                        f"space {self.name!r}: image size {size} in patches of {patch} px gives {what}; "
                        f"give a multiple of {step} px"
                    )
        entangled = [
            *self.asks_for,
            *(["absent attention or MLP"] if self.lacks_parts else []),
            *["mean_shift"] * self.mean_shift,
        ]
        if self.sharing == "classical" and entangled:
            raise ArchitectureError(f"space {self.name!r}: classical sharing knows no {' or '.join(entangled)}")
        whole = ("prefix_qkv_bias", "scale_by_width", "scale_attn_norm", "rope")
        if self.head_dims and (odd := [name for name in whole if getattr(self, name)]):
            raise ArchitectureError(f"space {self.name!r}: {odd[0]} knows whole heads only, not several head_dims")

    def _check_types(self) -> None:
        """Raises `ArchitectureError` naming the first field that holds a value of another kind."""
        if not isinstance(self.name, str) or not self.name:
            raise ArchitectureError(f"not a search space: name must be a text, got {str(self.name)[:40]!r}")
        for name in (*CHOICES, *OPTIONAL_CHOICES):
            if not is_list_of_numbers(value := getattr(self, name)):
                raise ArchitectureError(
                    f"not a search space: {name} of {self.name!r} must be a list of numbers, got {repr(value)[:40]}"
                )
        for name in FLAGS:
            if not isinstance(value := getattr(self, name), bool):
                raise ArchitectureError(f"space {self.name!r}: {name} must be true or false, got {repr(value)[:40]}")
        if contradiction := self.contradiction:
            raise ArchitectureError(f"space {self.name!r}: {contradiction}")
        if not is_number(self.norm_eps):
            raise ArchitectureError(f"space {self.name!r}: norm_eps must be a number, got {repr(self.norm_eps)[:40]}")

    # --- what is asked for ---------------------------------------------------------------------------------------

    @property
    def patch_choices(self) -> tuple[int, ...]:
        """The patch sizes there are, in pixels, rising."""
        return self.patch_sizes or (self.patch_size,)

    @property
    def head_dim_choices(self) -> tuple[int, ...]:
        """The widths of a head there are, in channels, rising."""
        return self.head_dims or (self.head_dim,)

    def may_lack(self, choice: str) -> bool:
        """Whether blocks may lack what this choice of an architecture ("num_heads", "mlp_ratio") is about."""
        return not {"num_heads": self.num_heads, "mlp_ratio": self.mlp_ratios}[choice][0]

    @property
    def whole_heads(self) -> tuple[int, ...]:
        """The choices of heads of blocks that have attention."""
        return tuple(heads for heads in self.num_heads if heads)

    @property
    def whole_mlp_ratios(self) -> tuple[float, ...]:
        """The choices of MLP ratios of blocks that have an MLP."""
        return tuple(ratio for ratio in self.mlp_ratios if ratio)

    @property
    def lacks_parts(self) -> bool:
        """Whether blocks may lack their attention or their MLP."""
        return self.may_lack("num_heads") or self.may_lack("mlp_ratio")

    @property
    def asks_for(self) -> tuple[str, ...]:
        """Which of the optional choices an architecture of this space names, by their names in `Architecture`."""
        asked = {
            "patch_size": len(self.patch_choices) > 1,
            "head_dim": len(self.head_dim_choices) > 1,
            "stem_depth": self.stem_depths != (0,),
            "mlp_kernel": self.mlp_kernels != (0,),
            "pool_after": self.pool_after != (0,),
        }
        return tuple(name for name, is_asked in asked.items() if is_asked)

    @property
    def is_plain(self) -> bool:
        """Whether width, depth and image size are all that is chosen for a whole network, and no block lacks a part."""
        return not self.asks_for and not self.lacks_parts

    @property
    def blocks_cost_alike(self) -> bool:
        """Whether a head, and a hidden channel, costs the same in every block of a network."""
        return len(self.mlp_kernels) == 1 and self.pool_after == (0,) and not self.lacks_parts

    # --- sizes of the stored weights -----------------------------------------------------------------------------

    @property
    def stored_embed_dim(self) -> int:
        """Width of the super weights."""
        return self.super_embed_dim or self.embed_dims[-1]

    @property
    def stored_qkv_dim(self) -> int:
        """Width of query, key or value in the super weights."""
        return self.head_dim * self.num_heads[-1]

    @property
    def stored_hidden_dim(self) -> int:
        """Width of the MLP in the super weights."""
        return int(self.stored_embed_dim * self.mlp_ratios[-1])

    @property
    def stored_grid(self) -> int:
        """Patches along one side that positions are stored for: the largest images in the smallest patches."""
        return self.image_size // self.patch_choices[0]

    @property
    def image_size(self) -> int:
        """The largest image size in pixels; the size that images are stored in."""
        return self.image_sizes[-1]

    def image_size_of(self, architecture: Architecture) -> int:
        """The side in pixels of the images this architecture takes."""
        return architecture.image_size or self.image_size

    def patch_size_of(self, architecture: Architecture) -> int:
        """The side in pixels of this architecture's patches."""
        return architecture.patch_size or self.patch_size

    def head_dim_of(self, architecture: Architecture) -> int:
        """The channels of each head of this architecture."""
        return architecture.head_dim or self.head_dim

    def grid_of(self, architecture: Architecture) -> int:
        """Number of patches along one side, before the grid is halved."""
        return self.image_size_of(architecture) // self.patch_size_of(architecture)
