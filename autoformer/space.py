"""`SearchSpace`: which architectures a supernet contains, and how to draw, vary and combine them.

Presets `tiny`, `small`, `base` are the paper's spaces (arXiv 2107.00651, table 1) with the ranges widened where the
published subnets lie outside the released YAML files: MLP ratio 3 in `tiny`, 8 heads in `base`. `edge` spans a real range of
latency; `micro` suits small images, with a patch that gives a grid of 4 to 8 patches a side.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from autoformer.architecture import (
    LARGEST_SIZES,
    MAX_DEPTH,
    MAX_EMBED_DIM,
    MAX_HEADS,
    MAX_IMAGE_SIZE,
    MAX_MLP_RATIO,
    PUBLISHED,
    Architecture,
    SubnetGeometry,
    is_list_of_numbers,
    is_number,
    is_whole,
)
from autoformer.errors import ArchitectureError, short

FORMAT = "autoformer/space/1"
CHOICES = ("embed_dims", "depths", "num_heads", "mlp_ratios", "image_sizes")
FLAGS = ("relative_position", "absolute_position", "any_up_to_largest", "prefix_qkv_bias", "scale_by_width")
SHARED = (*LARGEST_SIZES, "relative_position", "absolute_position", "norm_eps", "scale_by_width")  # with `SubnetGeometry`

# The largest numbers that are believed, as in `architecture.py`.
LARGEST_CHOICES = {"embed_dims": MAX_EMBED_DIM, "depths": MAX_DEPTH, "num_heads": MAX_HEADS, "image_sizes": MAX_IMAGE_SIZE}


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The choices, and the fixed numbers every network of the space shares. Equal values are equal spaces.

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

    def __post_init__(self) -> None:
        self._check_types()
        for name in CHOICES:
            values = tuple(sorted(set(getattr(self, name))))
            if not values or values[0] <= 0:
                raise ArchitectureError(f"space {self.name!r}: {name} needs at least one positive choice, got {values}")
            object.__setattr__(self, name, values)
        for name, most in LARGEST_CHOICES.items():
            if odd := [value for value in getattr(self, name) if not is_whole(value, most)]:
                raise ArchitectureError(
                    f"space {self.name!r}: {name} takes whole numbers from 1 to {most}, got {str(odd[-1])[:40]}"
                )
        if not all(0 < ratio < MAX_MLP_RATIO for ratio in self.mlp_ratios):
            given = str(self.mlp_ratios)[:60]
            raise ArchitectureError(f"space {self.name!r}: mlp_ratios must be below {MAX_MLP_RATIO:g}, got {given}")
        for name, most in LARGEST_SIZES.items():
            if not is_whole(size := getattr(self, name), most, least=0 if name == "num_classes" else 1):
                raise ArchitectureError(
                    f"space {self.name!r}: {name} must be positive, a whole number up to {most}, got {str(size)[:40]}"
                )
        if int(self.embed_dims[0] * self.mlp_ratios[0]) < 1:
            raise ArchitectureError(
                f"space {self.name!r}: mlp_ratio {self.mlp_ratios[0]:g} of embed_dim {self.embed_dims[0]} leaves an MLP without "
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

    def _check_types(self) -> None:
        """Raises `ArchitectureError` naming the first field that holds a value of another kind."""
        if not isinstance(self.name, str) or not self.name:
            raise ArchitectureError(f"not a search space: name must be a text, got {str(self.name)[:40]!r}")
        for name in CHOICES:
            if not is_list_of_numbers(value := getattr(self, name)):
                raise ArchitectureError(
                    f"not a search space: {name} of {self.name!r} must be a list of numbers, got {repr(value)[:40]}"
                )
        for name in FLAGS:
            if not isinstance(value := getattr(self, name), bool):
                raise ArchitectureError(f"space {self.name!r}: {name} must be true or false, got {repr(value)[:40]}")
        if not is_number(self.norm_eps):
            raise ArchitectureError(f"space {self.name!r}: norm_eps must be a number, got {repr(self.norm_eps)[:40]}")

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
    def image_size(self) -> int:
        """The largest image size in pixels; the size that images are stored in."""
        return self.image_sizes[-1]

    def image_size_of(self, architecture: Architecture) -> int:
        """The side in pixels of the images this architecture takes."""
        return architecture.image_size or self.image_size

    def grid_of(self, architecture: Architecture) -> int:
        """Number of patches along one side."""
        return self.image_size_of(architecture) // self.patch_size

    # --- membership and counting ---------------------------------------------------------------------------------

    def contains(self, architecture: Architecture) -> bool:
        """Whether every choice of `architecture` is one of this space's."""
        return not self._objections(architecture)

    def check(self, architecture: Architecture) -> None:
        """Raises `ArchitectureError` naming the first choice that is not one of this space's."""
        if objections := self._objections(architecture):
            raise ArchitectureError(f"architecture {architecture.slug} is not in space {self.name!r}: {objections[0]}")

    def _objections(self, architecture: Architecture) -> list[str]:
        found = self._too_large(architecture) if self.any_up_to_largest else self._not_listed(architecture)
        if self.image_size_of(architecture) not in self.image_sizes:
            found.append(f"image_size {architecture.image_size}, choices {self.image_sizes}")
        elif architecture.image_size is None and len(self.image_sizes) > 1:
            found.append(f"image_size is missing, choices {self.image_sizes}")
        elif architecture.image_size is not None and len(self.image_sizes) == 1:
            found.append(f"image_size {architecture.image_size} is given, but there is only one: leave it out")
        return found

    def _not_listed(self, architecture: Architecture) -> list[str]:
        found = []
        if architecture.embed_dim not in self.embed_dims:
            found.append(f"embed_dim {architecture.embed_dim}, choices {self.embed_dims}")
        if architecture.depth not in self.depths:
            found.append(f"depth {architecture.depth}, choices {self.depths}")
        if odd := set(architecture.num_heads) - set(self.num_heads):
            found.append(f"num_heads {min(odd)}, choices {self.num_heads}")
        if other := set(architecture.mlp_ratio) - set(self.mlp_ratios):
            found.append(f"mlp_ratio {min(other):g}, choices {self.mlp_ratios}")
        return found

    def _too_large(self, architecture: Architecture) -> list[str]:
        found = []
        if architecture.embed_dim > self.stored_embed_dim:
            found.append(f"embed_dim {architecture.embed_dim}, largest {self.stored_embed_dim}")
        if architecture.depth > self.depths[-1]:
            found.append(f"depth {architecture.depth}, largest {self.depths[-1]}")
        if max(architecture.num_heads) > self.num_heads[-1]:
            found.append(f"num_heads {max(architecture.num_heads)}, largest {self.num_heads[-1]}")
        if self.scale_by_width and set(architecture.num_heads) != set(self.num_heads):
            found.append(f"num_heads {min(architecture.num_heads)}, the fixed query width has {self.num_heads[-1]}")
        if max(architecture.hidden_dims) > self.stored_hidden_dim:
            found.append(f"MLP width {max(architecture.hidden_dims)}, largest {self.stored_hidden_dim}")
        return found

    @property
    def size(self) -> int:
        """Number of architectures."""
        per_block = len(self.num_heads) * len(self.mlp_ratios)
        blocks: int = sum(per_block**depth for depth in self.depths)
        return len(self.image_sizes) * len(self.embed_dims) * blocks

    # --- drawing and varying -------------------------------------------------------------------------------------

    def uniform(self, embed_dim: int, depth: int, heads: int, ratio: float, image_size: int | None = None) -> Architecture:
        """The architecture with the same choice in every block."""
        size = image_size if len(self.image_sizes) > 1 else None
        return Architecture(embed_dim=embed_dim, num_heads=(heads,) * depth, mlp_ratio=(ratio,) * depth, image_size=size)

    @property
    def smallest(self) -> Architecture:
        """The architecture with the least of everything; the cheapest by params and FLOPs."""
        return self.uniform(self.embed_dims[0], self.depths[0], self.num_heads[0], self.mlp_ratios[0], self.image_sizes[0])

    @property
    def largest(self) -> Architecture:
        """The architecture with the most of everything; the most expensive by params and FLOPs."""
        return self.uniform(self.embed_dims[-1], self.depths[-1], self.num_heads[-1], self.mlp_ratios[-1], self.image_sizes[-1])

    @property
    def middle(self) -> Architecture:
        """The architecture with the middle of each list of choices."""
        choices = (self.embed_dims, self.depths, self.num_heads, self.mlp_ratios, self.image_sizes)
        embed_dim, depth, heads, ratio, size = (values[len(values) // 2] for values in choices)
        return self.uniform(int(embed_dim), int(depth), int(heads), ratio, int(size))

    @property
    def anchors(self) -> dict[str, Architecture]:
        """Named architectures to watch while training: smallest, middle, largest, and the published ones it contains."""
        published = {name: architecture for name, architecture in PUBLISHED.items() if self.contains(architecture)}
        return {"smallest": self.smallest, "middle": self.middle, **published, "largest": self.largest}

    def sample(self, rng: random.Random) -> Architecture:
        """Draws every choice independently and uniformly (the paper's sampling)."""
        depth = rng.choice(self.depths)
        return Architecture(
            embed_dim=rng.choice(self.embed_dims),
            mlp_ratio=tuple(rng.choice(self.mlp_ratios) for _ in range(depth)),
            num_heads=tuple(rng.choice(self.num_heads) for _ in range(depth)),
            image_size=rng.choice(self.image_sizes) if len(self.image_sizes) > 1 else None,
        )

    def mutate(
        self,
        architecture: Architecture,
        rng: random.Random,
        *,
        shape_probability: float = 0.2,
        block_probability: float = 0.4,
    ) -> Architecture:
        """Draws depth, width and image size anew with `shape_probability` each, and each block's heads and MLP ratio
        with `block_probability` each (paper, section 4.1; the official code has the two numbers the other way round)."""
        depth = rng.choice(self.depths) if rng.random() < shape_probability else architecture.depth
        added = range(architecture.depth, depth)
        heads = (architecture.num_heads + tuple([rng.choice(self.num_heads) for _ in added]))[:depth]
        ratios = (architecture.mlp_ratio + tuple([rng.choice(self.mlp_ratios) for _ in added]))[:depth]
        return Architecture(
            embed_dim=rng.choice(self.embed_dims) if rng.random() < shape_probability else architecture.embed_dim,
            num_heads=tuple(rng.choice(self.num_heads) if rng.random() < block_probability else h for h in heads),
            mlp_ratio=tuple(rng.choice(self.mlp_ratios) if rng.random() < block_probability else r for r in ratios),
            image_size=(
                rng.choice(self.image_sizes)
                if architecture.image_size is not None and rng.random() < shape_probability
                else architecture.image_size
            ),
        )

    def crossover(self, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
        """Takes every choice from either parent. Blocks that only the deeper parent has come from it."""
        deeper, other = (first, second) if first.depth >= second.depth else (second, first)
        depth = rng.choice((first, second)).depth
        blocks = [
            rng.choice((deeper, other)) if index < other.depth else deeper for index in range(depth)
        ]  # whole blocks, so that heads and MLP ratio that worked together stay together
        return Architecture(
            embed_dim=rng.choice((first, second)).embed_dim,
            num_heads=tuple(parent.num_heads[index] for index, parent in enumerate(blocks)),
            mlp_ratio=tuple(parent.mlp_ratio[index] for index, parent in enumerate(blocks)),
            image_size=rng.choice((first, second)).image_size,
        )

    # --- single networks -----------------------------------------------------------------------------------------

    def geometry_of(self, architecture: Architecture) -> SubnetGeometry:
        """What a network of this space has beside its architecture."""
        side = self.image_size_of(architecture)
        pool: Literal["avg", "token"] = "avg" if self.pooling == "mean" else "token"
        return SubnetGeometry(img_size=(side, side), global_pool=pool, **{name: getattr(self, name) for name in SHARED})

    @classmethod
    def of_one(cls, architecture: Architecture, geometry: SubnetGeometry) -> SearchSpace:
        """The space of one network, whose counts are the network's. Raises `ArchitectureError` unless images are square."""
        rows, columns = geometry.img_size
        if rows != columns:
            raise ArchitectureError(f"images of {rows}×{columns} px: costs in closed form know square images only")
        return cls(
            name="one",
            embed_dims=(architecture.embed_dim,),
            depths=(architecture.depth,),
            num_heads=architecture.num_heads,
            mlp_ratios=architecture.mlp_ratio,
            image_sizes=(rows,),
            pooling="mean" if geometry.global_pool == "avg" else "token",
            **{name: getattr(geometry, name) for name in SHARED},
        )

    # --- JSON and presets ----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        return {"format": FORMAT, **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchSpace:
        """Reads the JSON form. Raises `ArchitectureError` when it is not an object, on unknown or missing keys and on impossible
        values."""
        if not isinstance(values, Mapping):
            raise ArchitectureError(f"not a search space: a {type(values).__name__}, expected a JSON object")
        known = {field.name for field in fields(cls)}
        unknown = set(values) - known - {"format"}
        missing = {"name", "embed_dims", "depths", "num_heads", "mlp_ratios"} - set(values)
        if unknown or missing or values.get("format", FORMAT) != FORMAT:
            raise ArchitectureError(
                f"not a search space: unknown keys {short(sorted(unknown))}, missing keys {sorted(missing)}, "
                f"format {values.get('format', FORMAT)!r}; expected {FORMAT!r}"
            )
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "format"}
        if isinstance(arguments.get("norm_eps"), str):  # YAML 1.1 reads 1e-6 as a text, 1.0e-6 as a number
            with contextlib.suppress(ValueError):  # what is not a number is named below
                arguments["norm_eps"] = float(arguments["norm_eps"])
        try:
            return cls(**arguments)
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, ArchitectureError):
                raise
            raise ArchitectureError(f"not a search space: {error}") from error

    @classmethod
    def preset(
        cls, name: str, *, image_size: int | None = None, in_chans: int | None = None, num_classes: int | None = None
    ) -> SearchSpace:
        """The named space for these images and classes; None keeps the preset's. `image_size` is in pixels.

        Raises `ArchitectureError` for an unknown name, listing the known ones.
        """
        if name not in PRESETS:
            raise ArchitectureError(f"unknown space {name!r}; known are {', '.join(PRESETS)}")
        space = PRESETS[name]
        if in_chans is not None:
            space = replace(space, in_chans=in_chans)
        if num_classes is not None:
            space = replace(space, num_classes=num_classes)
        if image_size is None:
            return space
        patch = patch_for(image_size) if name == "micro" else space.patch_size
        return replace(space, image_sizes=(image_size,), patch_size=patch)


def patch_for(image_size: int, grids: Sequence[int] = (8, 7, 6, 5, 4)) -> int:
    """The patch size in pixels, at least 2, that cuts a small image into the finest grid of 4 to 8 patches a side.

    Raises `ArchitectureError` when no such grid divides `image_size`.
    """
    for grid in grids:
        if image_size % grid == 0 and image_size // grid >= 2:
            return image_size // grid
    nearest = max(8, image_size // 8 * 8)
    raise ArchitectureError(f"no grid of 4 to 8 patches divides {image_size} px; set data.image_size to {nearest}, say")


PRESETS: dict[str, SearchSpace] = {
    space.name: space
    for space in (
        SearchSpace(
            name="micro",
            embed_dims=(48, 64, 80),
            depths=(3, 4, 5),
            num_heads=(2, 3, 4),
            mlp_ratios=(1.0, 1.5, 2.0),
            head_dim=16,
            image_sizes=(8,),
            patch_size=2,
            num_classes=10,
            max_relative_position=7,
        ),
        SearchSpace(
            name="tiny",
            embed_dims=(192, 216, 240),
            depths=(12, 13, 14),
            num_heads=(3, 4),
            mlp_ratios=(3.0, 3.5, 4.0),
            super_embed_dim=256,
        ),
        SearchSpace(
            name="small",
            embed_dims=(320, 384, 448),
            depths=(12, 13, 14),
            num_heads=(5, 6, 7),
            mlp_ratios=(3.0, 3.5, 4.0),
            super_embed_dim=448,
        ),
        SearchSpace(
            name="base",
            embed_dims=(528, 576, 624),
            depths=(14, 15, 16),
            num_heads=(8, 9, 10),
            mlp_ratios=(3.0, 3.5, 4.0),
            super_embed_dim=640,
        ),
        SearchSpace(
            name="edge",
            embed_dims=tuple(range(128, 385, 32)),
            depths=tuple(range(6, 15)),
            num_heads=(2, 3, 4, 5, 6),
            mlp_ratios=(2.0, 2.5, 3.0, 3.5, 4.0),
            image_sizes=(128, 160, 192, 224),
        ),
    )
}
