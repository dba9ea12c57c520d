"""A recipe that is begun from one pretrained network in a word, `--from timm:NAME`: what follows from the network, and is said.

The space is the network's (width, blocks, pooling, `norm_eps`, patches), not the recipe's; images are a multiple of its patches,
in a grid that is worth it; learning rates are no higher than pretrained weights bear. What the command line states stays.

torch and timm are imported where there is a network to look at: a mistake in a recipe is answered at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoformer.cli.chain.recipe import Recipe, merge, parse_recipe, recipe_values
from autoformer.errors import CheckpointError, short
from autoformer.files import TIMM
from autoformer.settings import Word

FEWEST_PATCHES = 7  # a side of the grid: 98 px for patches of 14, 112 px for 16; fewer tell a pretrained network little
HIGHEST_RATES = {"parent": 1e-4, "train": 2e-4, "finetune": 2e-4}  # peaks for pretrained weights, as in recipe photos-pretrained


def recipe_from(
    path: Path | str, start: str | None, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None
) -> tuple[Recipe, list[str]]:
    """The recipe of a file or name, begun from what `start` names, and what of it follows from that, in lines.

    Overrides and `given` are those of `load_recipe`, and raise as there. Without a start, or from a supernet, the recipe is as it
    is written. Raises `CheckpointError` for a network that does not exist.
    """
    values, options = recipe_values(path), dict(given or {})
    said: list[str] = []
    if start is not None:
        from autoformer.cli.chain.starting import is_one_network

        options["train.start"] = start
        if is_one_network(start):
            asked = {override.partition("=")[0].strip() for override in overrides}
            said = _follow(values, start, asked | {key for key, value in options.items() if value is not None})
    return parse_recipe(values, overrides, str(path), options), said


def check_start(start: str) -> None:
    """Raises `CheckpointError` for what cannot start a search, before anything is read: a network that timm does not have, or of
    which no subnets can be cut; weights that are neither here nor can be fetched.
    """
    from autoformer.pretrained.start import FORMS, OFFICIAL
    from autoformer.pretrained.timm_models import check_obtainable, name_and_file
    from autoformer.pretrained.vit_features import check_plain
    from autoformer.pretrained.weight_shapes import sketch

    if start.startswith(TIMM):
        name, file = name_and_file(start)
        check_plain(sketch(name), name)
        if file is None:
            check_obtainable(name)
        elif not file.is_file():
            raise CheckpointError(f"{file} does not exist; expected a file with the weights of timm's {name}")
    elif not Path(start.removeprefix(OFFICIAL)).expanduser().exists():
        raise CheckpointError(f"cannot start from {short(start, 80)!r}: there is no such file or folder; expected {FORMS}")


def _follow(values: dict[str, Any], start: str, asked: set[str]) -> list[str]:
    """Changes the values of a recipe to what the network asks for; gives a line for each change."""
    patch, said = patch_of(start), []
    if values.pop("space", None) is not None:
        said.append(f"space: that of {start}, patches of {patch} px, not the recipe's; --set space.KEY=… changes it")
    size = _number(values, "data", "image_size")
    if "data.image_size" not in asked and (size is None or size % patch or size < FEWEST_PATCHES * patch):
        wanted = fitting_size(size, patch)
        merge(values, "data.image_size", wanted)
        before, side = "" if size is None else f", not the recipe's {size:g}", wanted // patch
        said.append(f"images: {wanted} px, a grid of {side} × {side} patches{before}; --set data.image_size=… changes it")
    for section, highest in HIGHEST_RATES.items():
        key, rate = f"{section}.learning_rate", _number(values, section, "learning_rate")
        if key not in asked and _is_section(values, section) and (rate is None or rate > highest):
            merge(values, key, highest)
            said.append(f"{key}: {highest:g}, for pretrained weights" + (f", not the recipe's {rate:g}" if rate else ""))
    return said


def fitting_size(size: float | None, patch: int) -> int:
    """The multiple of a network's patches that is nearest to `size` pixels, in a grid worth it; None: the least of these."""
    return patch * (FEWEST_PATCHES if size is None else max(FEWEST_PATCHES, round(size / patch)))


def _is_section(values: Mapping[str, Any], section: str) -> bool:
    """Whether the section is there, or left to what is usual; not where the recipe says that there is none."""
    return section not in values or isinstance(values[section], Mapping)


def _number(values: Mapping[str, Any], section: str, name: str) -> float | int | None:
    """What a recipe says, if it is a number."""
    of = values.get(section)
    said = of.get(name) if isinstance(of, Mapping) else None
    found = said.value if isinstance(said, Word) else said
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def patch_of(start: str) -> int:
    """The side of the network's patches, pixels."""
    from autoformer.networks.folders import load_subnet
    from autoformer.pretrained.timm_models import name_and_file
    from autoformer.pretrained.weight_shapes import sketch

    if start.startswith(TIMM):
        embedding = sketch(name_and_file(start)[0]).patch_embed
        return int(embedding.patch_size[0])
    return int(load_subnet(Path(start))[0].space.patch_size)
