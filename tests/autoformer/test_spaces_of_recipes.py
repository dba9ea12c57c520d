"""The `space:` of a recipe: choices that a preset lacks, and recipes that ask for none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoformer.cli.chain.recipe import Recipe, parse_recipe
from autoformer.errors import ArchitectureError, RecipeError
from autoformer.parsing import SpaceConfig, read_space
from autoformer.settings import read_yaml
from autoformer.space import SearchSpace

ASKING = """
space:
  preset: micro
  patch_size: 4
  patch_sizes: [2, 4]
  stem: conv
  stem_dim: 16
  stem_depths: [0, 1]
  mlp_kernels: [0, 3]
  pool_after: [0, 2]
  class_token: false
"""


def recipe_of(text: str, *overrides: str) -> Recipe:
    values = read_yaml(text)
    assert isinstance(values, dict)
    return parse_recipe(values, overrides)


def test_a_recipe_asks_for_patches_a_stem_kernels_and_halving() -> None:
    space = recipe_of(ASKING).space.make(32, 3, 5)
    assert (space.patch_choices, space.stem, space.stem_dim, space.stem_depths) == ((2, 4), "conv", 16, (0, 1))
    assert (space.mlp_kernels, space.pool_after, space.class_token) == ((0, 3), (0, 2), False)
    assert (space.image_sizes, space.embed_dims) == ((32,), SearchSpace.preset("micro").embed_dims)
    assert recipe_of(ASKING, "space.mlp_kernels=[0,5]", "space.class_token=true").space.make(32, 3, 5).mlp_kernels == (0, 5)


def test_a_recipe_takes_a_compact_space_for_its_images() -> None:
    config = recipe_of("space: {preset: compact-32}").space
    assert config.make(32, 1, 4) == SearchSpace.preset("compact-32", in_chans=1, num_classes=4)
    assert config.make(48, 3, 10).stored_grid == 12
    with pytest.raises(ArchitectureError, match=r"28 in patches of 4 px gives 7 patches a side.*multiple of 8 px"):
        config.make(28, 1, 10)
    whole = recipe_of("space: {preset: compact-32, pool_after: [0]}").space.make(28, 1, 10)  # what is never halved may be odd
    assert whole.stored_grid == 7
    assert recipe_of("space: {preset: compact-32, patch_size: 2}").space.make(28, 1, 10).stored_grid == 14


def test_a_recipe_that_asks_for_nothing_new_is_written_as_ever() -> None:
    keys = {
        "preset", "embed_dims", "depths", "num_heads", "mlp_ratios", "image_sizes", "head_dim", "patch_size",
        "max_relative_position", "sharing",
    }  # fmt: skip
    assert SpaceConfig().model_dump(mode="json").keys() == keys
    written = recipe_of(ASKING).model_dump(mode="json")
    assert written["space"].keys() > keys
    assert parse_recipe(written) == recipe_of(ASKING)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("stem: tree", "space.stem = 'tree'"),
        ("mlp_kernels: [0, 2]", "mlp_kernels are odd from 3 on, or 0 for none; got 2"),
        ("stem_depths: [1]", r"stem_depths \(1,\) belong to stem=conv"),
        ("pool_after: [3]", "pool_after 3 leaves no block after the halving"),
        ("mlp_kernel: [3]", "did you mean 'space.mlp_kernels'"),
        ("class_token: maybe", "space.class_token = 'maybe'"),
    ],
)
def test_what_a_recipe_cannot_ask_for_is_one_line(line: str, words: str) -> None:
    with pytest.raises((ArchitectureError, RecipeError), match=words) as raised:
        recipe_of(f"space:\n  preset: micro\n  {line}\n").space.make(16, 3, 5)
    assert "\n" not in str(raised.value)


def test_a_file_of_a_space_names_what_it_asks_for(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "embed_dims: [32, 48]\ndepths: [3, 4]\nnum_heads: [1, 2]\nmlp_ratios: [1, 2]\nimage_sizes: [32]\nhead_dim: 16\n"
        "patch_size: 4\nstem: conv\nstem_depths: [0, 2]\nmlp_kernels: [0, 3]\npool_after: [0, 1]\nclass_token: false\n"
    )
    space = read_space(str(file))
    assert space.asks_for == ("stem_depth", "mlp_kernel", "pool_after")
    assert not space.class_token
