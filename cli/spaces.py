"""A search space in words: the name of a preset, or a YAML file of its choices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoformer.space import SearchSpace


def read_space(
    text: str, *, image_size: int | None = None, in_chans: int | None = None, num_classes: int | None = None
) -> SearchSpace:
    """The space of a preset's name or of a YAML file with the fields of `SearchSpace` (embed_dims, depths, num_heads,
    mlp_ratios, head_dim, image_sizes, patch_size, ...). What is given beside it replaces the space's own.

    Raises `ArchitectureError` for an unknown name or field, `RecipeError` for a file that is no YAML.
    """
    from autoformer.space import PRESETS, SearchSpace

    path = Path(text)
    if text in PRESETS or path.suffix not in (".yaml", ".yml"):
        space = SearchSpace.preset(text, image_size=image_size)
    else:
        space = _of_file(path)
        if image_size is not None:
            space = replace(space, image_sizes=(image_size,))
    if in_chans is not None:
        space = replace(space, in_chans=in_chans)
    return space if num_classes is None else replace(space, num_classes=num_classes)


def _of_file(path: Path) -> SearchSpace:
    import yaml

    from autoformer.errors import ArchitectureError, RecipeError
    from autoformer.space import SearchSpace

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"space {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"space {path} holds no fields; expected embed_dims, depths, num_heads, mlp_ratios")
    try:
        return SearchSpace.from_dict({"name": path.stem, **values})
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from error
