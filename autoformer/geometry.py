"""`SubnetGeometry`: what one network has beside its architecture, and the flat form of both that timm and `config.json` know.

The architecture is what a search chooses. The geometry is what the network's images, classes and space say: sizes in pixels and
channels, the kinds of positions, the pooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from autoformer.architecture import MAX_IMAGE_SIZE, Architecture, is_number, is_whole
from autoformer.errors import ArchitectureError, CheckpointError, short
from autoformer.records import fields_to_json
from autoformer.space import LARGEST_SIZES, SearchSpace

CHOICES = ("embed_dim", "num_heads", "mlp_ratio")  # of the architecture, under the same names in the flat form
OPTIONS = ("drop_rate", "drop_path_rate", "super_depth", "form")  # of `Subnet`, which a file may hold beside them


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

    @classmethod
    def of_space(cls, space: SearchSpace, architecture: Architecture) -> SubnetGeometry:
        """The geometry of a network of `space`."""
        side = space.image_size_of(architecture)
        return cls(
            img_size=(side, side),
            patch_size=space.patch_size,
            in_chans=space.in_chans,
            num_classes=space.num_classes,
            head_dim=space.head_dim,
            max_relative_position=space.max_relative_position,
            relative_position=space.relative_position,
            absolute_position=space.absolute_position,
            global_pool="avg" if space.pooling == "mean" else "token",
            norm_eps=space.norm_eps,
            scale_by_width=space.scale_by_width,
        )

    def space(self, architecture: Architecture) -> SearchSpace:
        """The space of this one network, whose counts are the network's. Raises `ArchitectureError` unless images are square."""
        rows, columns = self.img_size
        if rows != columns:
            raise ArchitectureError(f"images of {rows}×{columns} px: costs in closed form know square images only")
        return SearchSpace(
            name="one",
            embed_dims=(architecture.embed_dim,),
            depths=(architecture.depth,),
            num_heads=architecture.num_heads,
            mlp_ratios=architecture.mlp_ratio,
            image_sizes=(rows,),
            head_dim=self.head_dim,
            patch_size=self.patch_size,
            in_chans=self.in_chans,
            num_classes=self.num_classes,
            max_relative_position=self.max_relative_position,
            relative_position=self.relative_position,
            absolute_position=self.absolute_position,
            pooling="mean" if self.global_pool == "avg" else "token",
            norm_eps=self.norm_eps,
            scale_by_width=self.scale_by_width,
        )

    # --- the flat form -------------------------------------------------------------------------------------------

    def arguments(self, architecture: Architecture) -> dict[str, Any]:
        """Architecture and geometry as timm's arguments; JSON."""
        values = {**fields_to_json(architecture), **fields_to_json(self), "searched_size": architecture.image_size}
        del values["image_size"]
        for name in ("img_size", "trained_grid"):
            if values[name] is not None and values[name][0] == values[name][1]:
                values[name] = values[name][0]
        return values

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
