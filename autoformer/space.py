"""`SearchSpace`: which architectures a supernet contains, and how to draw, vary and combine them.

Presets `tiny`, `small`, `base` are the paper's spaces (arXiv 2107.00651, table 1) with the ranges widened where the published
subnets lie outside the released YAML files: MLP ratio 3 in `tiny`, 8 heads in `base`. `edge` spans a real range of
latency; `micro` suits small images, with a patch that gives a grid of 4 to 8 patches a side.

`compact-32`, `compact-64` and `compact-96` are for small images of so many pixels, without pretrained weights: every network has
a convolutional stem, a depthwise convolution in each MLP, and a grid of 8 patches a side (of 96 px 12) that is halved after the
first or second block; none has a class token. They are the arm `compact` of benchmarks/tokens_and_stem.py, made wider and deeper.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from autoformer.architecture import ANATOMY, LARGEST_SIZES, PUBLISHED, Architecture, SubnetGeometry
from autoformer.choices import OPTIONAL_CHOICES, Choices
from autoformer.errors import ArchitectureError, short

FORMAT = "autoformer/space/1"
SHARED = (  # with `SubnetGeometry`
    *LARGEST_SIZES, "relative_position", "absolute_position", "norm_eps", "scale_by_width", "stem", *ANATOMY,
)  # fmt: skip
# What a space's file leaves out where it has this value, so that a space that asks for none of it is written as ever.
_ASKED = (*OPTIONAL_CHOICES, "stem", "stem_dim", "mean_shift", *ANATOMY)
LEFT_OUT = {name: Choices.__dataclass_fields__[name].default for name in _ASKED}


@dataclass(frozen=True, kw_only=True)
class SearchSpace(Choices):
    """The choices of `Choices`, as a set of architectures. Equal values are equal spaces."""

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
        return found + self._not_asked_for(architecture)

    def _not_asked_for(self, architecture: Architecture) -> list[str]:
        choices = {
            "patch_size": self.patch_choices, "head_dim": self.head_dim_choices, "stem_depth": self.stem_depths,
            "mlp_kernel": self.mlp_kernels, "pool_after": self.pool_after,
        }  # fmt: skip
        found = []
        for name, known in choices.items():
            value = getattr(architecture, name)
            if (value is None) == (name in self.asks_for):
                found.append(
                    f"{name} is missing, choices {known}" if value is None else f"{name} is given, but the space has none"
                )
            elif value is not None and (odd := set(value if isinstance(value, tuple) else (value,)) - set(known)):
                found.append(f"{name} {min(odd)}, choices {known}")
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
        per_block = len(self.num_heads) * len(self.mlp_ratios) * len(self.mlp_kernels)
        blocks: int = sum(per_block**depth for depth in self.depths)
        around = len(self.patch_choices) * len(self.head_dim_choices) * len(self.stem_depths) * len(self.pool_after)
        return len(self.image_sizes) * around * len(self.embed_dims) * blocks

    # --- drawing and varying -------------------------------------------------------------------------------------

    def uniform(self, embed_dim: int, depth: int, heads: int, ratio: float, image_size: int | None = None) -> Architecture:
        """The architecture with the same choice in every block, and the most of what else the space asks for."""
        return self._uniform((embed_dim, depth, heads, ratio, image_size), lambda values: values[-1])

    def _uniform(self, chosen: tuple[int, int, int, float, int | None], pick: Callable[[tuple[int, ...]], int]) -> Architecture:
        embed_dim, depth, heads, ratio, image_size = chosen
        others: dict[str, Any] = {name: pick(values) for name, values in self.asked_choices.items()}
        return Architecture(
            embed_dim=embed_dim,
            num_heads=(heads,) * depth,
            mlp_ratio=(ratio,) * depth,
            image_size=image_size if len(self.image_sizes) > 1 else None,
            **self.asked({**others, "mlp_kernel": (others["mlp_kernel"],) * depth}),
        )

    @property
    def asked_choices(self) -> dict[str, tuple[int, ...]]:
        """The optional choices by their names in `Architecture`, each from the cheapest to the most expensive."""
        return {
            "patch_size": self.patch_choices[::-1],
            "head_dim": self.head_dim_choices,
            "stem_depth": self.stem_depths,
            "mlp_kernel": self.mlp_kernels,
            "pool_after": tuple(sorted(self.pool_after, key=lambda place: (place == 0, place))),  # the earliest is the cheapest
        }

    def asked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of these values, by their names in `Architecture`, those that an architecture of this space names."""
        return {name: values[name] for name in self.asks_for}

    def _picked(self, pick: Callable[[tuple[Any, ...]], Any], *, whole: bool = True) -> Architecture:
        """The homogeneous architecture of what `pick` takes of each list of choices; `whole`: its blocks lack no part."""
        blocks = (self.whole_heads, self.whole_mlp_ratios) if whole else (self.num_heads, self.mlp_ratios)
        embed_dim, depth, heads, ratio, size = map(pick, (self.embed_dims, self.depths, *blocks, self.image_sizes))
        return self._uniform((embed_dim, depth, heads, ratio, size), pick)

    @property
    def smallest(self) -> Architecture:
        """The architecture with the least of everything; the cheapest by params and FLOPs (of several patch sizes by FLOPs)."""
        return self._picked(lambda values: values[0], whole=False)

    @property
    def narrowest(self) -> Architecture:
        """The smallest architecture whose blocks lack neither attention nor MLP; `smallest` where all are whole."""
        return self._picked(lambda values: values[0])

    @property
    def largest(self) -> Architecture:
        """The architecture with the most of everything; the most expensive as `smallest` is the cheapest."""
        return self._picked(lambda values: values[-1])

    @property
    def middle(self) -> Architecture:
        """The architecture with the middle of each list of choices."""
        return self._picked(lambda values: values[len(values) // 2])

    def of_each_patch_size(self, architecture: Architecture) -> tuple[Architecture, ...]:
        """The architecture in every patch size: cheap by FLOPs may be dear by params, and the other way round."""
        if len(self.patch_choices) == 1:
            return (architecture,)
        return tuple(replace(architecture, patch_size=size) for size in self.patch_choices)

    @property
    def anchors(self) -> dict[str, Architecture]:
        """Named architectures to watch while training: smallest (none without parts), middle, largest, and published ones."""
        published = {name: architecture for name, architecture in PUBLISHED.items() if self.contains(architecture)}
        return {"smallest": self.narrowest, "middle": self.middle, **published, "largest": self.largest}

    def sample(self, rng: random.Random) -> Architecture:
        """Draws every choice independently and uniformly (the paper's sampling)."""
        depth = rng.choice(self.depths)
        return Architecture(
            embed_dim=rng.choice(self.embed_dims),
            mlp_ratio=tuple(rng.choice(self.mlp_ratios) for _ in range(depth)),
            num_heads=tuple(rng.choice(self.num_heads) for _ in range(depth)),
            image_size=rng.choice(self.image_sizes) if len(self.image_sizes) > 1 else None,
            **self._drawn(depth, rng),
        )

    def _drawn(self, depth: int, rng: random.Random) -> dict[str, Any]:
        """What else the space asks for, drawn independently and uniformly."""
        draws: dict[str, Callable[[], Any]] = {
            "patch_size": lambda: rng.choice(self.patch_choices),
            "head_dim": lambda: rng.choice(self.head_dim_choices),
            "stem_depth": lambda: rng.choice(self.stem_depths),
            "mlp_kernel": lambda: tuple([rng.choice(self.mlp_kernels) for _ in range(depth)]),
            "pool_after": lambda: rng.choice(self.pool_after),
        }
        return {name: draws[name]() for name in self.asks_for}

    def mutate(
        self,
        architecture: Architecture,
        rng: random.Random,
        *,
        shape_probability: float = 0.2,
        block_probability: float = 0.4,
    ) -> Architecture:
        """Draws depth, width, image size and the like anew with `shape_probability` each, and each block's heads, MLP ratio and
        kernel with `block_probability` each (paper, section 4.1; the official code has the two numbers the other way round)."""
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
            **self._mutated(architecture, depth, rng, shape_probability, block_probability),
        )

    def _mutated(
        self, architecture: Architecture, depth: int, rng: random.Random, shape_probability: float, block_probability: float
    ) -> dict[str, Any]:
        """What else the space asks for: one in a network is drawn anew as its shape is, a kernel as a block is."""
        drawn = self._drawn(depth, rng)
        for name in self.asks_for:
            if name == "mlp_kernel":
                drawn[name] = tuple(
                    new if index >= architecture.depth or rng.random() < block_probability else architecture.kernels[index]
                    for index, new in enumerate(drawn[name])
                )
            elif rng.random() >= shape_probability:
                drawn[name] = getattr(architecture, name)
        return drawn

    def crossover(self, first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
        """Takes every choice from either parent. Blocks that only the deeper parent has come from it."""
        deeper, other = (first, second) if first.depth >= second.depth else (second, first)
        depth = rng.choice((first, second)).depth
        blocks = [
            rng.choice((deeper, other)) if index < other.depth else deeper for index in range(depth)
        ]  # whole blocks, so that heads and MLP ratio that worked together stay together

        def take(name: str) -> Any:
            if name == "mlp_kernel":
                return tuple(parent.kernels[index] for index, parent in enumerate(blocks))
            return getattr(rng.choice((first, second)), name)

        return Architecture(
            embed_dim=rng.choice((first, second)).embed_dim,
            num_heads=tuple(parent.num_heads[index] for index, parent in enumerate(blocks)),
            mlp_ratio=tuple(parent.mlp_ratio[index] for index, parent in enumerate(blocks)),
            image_size=rng.choice((first, second)).image_size,
            **{name: take(name) for name in self.asks_for},
        )

    # --- single networks -----------------------------------------------------------------------------------------

    def geometry_of(self, architecture: Architecture) -> SubnetGeometry:
        """What a network of this space has beside its architecture."""
        side = self.image_size_of(architecture)
        pool: Literal["avg", "token"] = "avg" if self.pooling == "mean" else "token"
        own = {"patch_size": self.patch_size_of(architecture), "head_dim": self.head_dim_of(architecture)}
        shared = {name: getattr(self, name) for name in SHARED} | own
        return SubnetGeometry(img_size=(side, side), global_pool=pool, **shared)

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
            num_heads=architecture.num_heads if any(architecture.num_heads) else (0, 1),  # a space has some attention
            mlp_ratios=architecture.mlp_ratio if any(architecture.mlp_ratio) else (0, 1),
            image_sizes=(rows,),
            pooling="token" if geometry.global_pool == "token" else "mean",
            stem_depths=(architecture.stem_depth or 0,),
            mlp_kernels=architecture.kernels,
            pool_after=(architecture.pool_after or 0,),
            **{name: getattr(geometry, name) for name in SHARED},
        )

    # --- JSON and presets ----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without what the space does not ask for; `from_dict` reads it back."""
        values = {name: value for name, value in asdict(self).items() if value != LEFT_OUT.get(name, NotImplemented)}
        return {"format": FORMAT, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}

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


COMPACT: dict[str, Any] = {  # what these spaces have in common
    "embed_dims": (48, 64, 96, 128, 160, 192),
    "depths": (3, 4, 5, 6, 7, 8),
    "num_heads": (1, 2, 3, 4, 6),
    "mlp_ratios": (1.0, 2.0, 3.0),
    "mlp_kernels": (3,),
    "pool_after": (1, 2),
    "stem": "conv",
    "stem_depths": (1,),
    "head_dim": 32,
    "class_token": False,
    "num_classes": 10,
}

NAMED: dict[str, dict[str, Any]] = {
    "micro": {
        "embed_dims": (48, 64, 80),
        "depths": (3, 4, 5),
        "num_heads": (2, 3, 4),
        "mlp_ratios": (1.0, 1.5, 2.0),
        "head_dim": 16,
        "image_sizes": (8,),
        "patch_size": 2,
        "num_classes": 10,
        "max_relative_position": 7,
    },
    "tiny": {
        "embed_dims": (192, 216, 240),
        "depths": (12, 13, 14),
        "num_heads": (3, 4),
        "mlp_ratios": (3.0, 3.5, 4.0),
        "super_embed_dim": 256,
    },
    "small": {
        "embed_dims": (320, 384, 448),
        "depths": (12, 13, 14),
        "num_heads": (5, 6, 7),
        "mlp_ratios": (3.0, 3.5, 4.0),
        "super_embed_dim": 448,
    },
    "base": {
        "embed_dims": (528, 576, 624),
        "depths": (14, 15, 16),
        "num_heads": (8, 9, 10),
        "mlp_ratios": (3.0, 3.5, 4.0),
        "super_embed_dim": 640,
    },
    "edge": {
        "embed_dims": tuple(range(128, 385, 32)),
        "depths": tuple(range(6, 15)),
        "num_heads": (2, 3, 4, 5, 6),
        "mlp_ratios": (2.0, 2.5, 3.0, 3.5, 4.0),
        "image_sizes": (128, 160, 192, 224),
    },
    "compact-32": {**COMPACT, "image_sizes": (32,), "patch_size": 4, "stem_dim": 64, "max_relative_position": 7},
    "compact-64": {**COMPACT, "image_sizes": (64,), "patch_size": 8, "stem_dim": 32, "max_relative_position": 7},
    "compact-96": {**COMPACT, "image_sizes": (96,), "patch_size": 8, "stem_dim": 32, "max_relative_position": 11},
}

PRESETS: dict[str, SearchSpace] = {name: SearchSpace(name=name, **arguments) for name, arguments in NAMED.items()}
