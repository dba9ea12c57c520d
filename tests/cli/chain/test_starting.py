"""What a training starts from: a network of timm brings its space, and relative position only where the recipe asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import save_file

from autoformer.cli.chain.recipe import batch_for, parse_recipe
from autoformer.cli.chain.starting import beginning, with_fitting_batch
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.networks.subnet import TIMM_NAME
from autoformer.training.config import FinetuneConfig
from tests.support.timm_networks import SMALL, random_vit


@pytest.mark.parametrize(("overrides", "relative"), [((), False), (("space.relative_position=true",), True)])
def test_a_parent_has_relative_position_only_where_it_is_asked_for(
    overrides: tuple[str, ...], relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, sizes = timm.create_model, {**SMALL, "img_size": 8, "patch_size": 4, "depth": 2}
    save_file(random_vit("vit_small_patch14_reg4_dinov2", **sizes).state_dict(), tmp_path / "parent.safetensors")

    def small(name: str, **options: Any) -> Any:
        return create(name, **(options if name == TIMM_NAME else {**sizes, **options}))

    monkeypatch.setattr(timm, "create_model", small)
    words = f"timm:vit_small_patch14_reg4_dinov2@{tmp_path / 'parent.safetensors'}"
    space, supernet, new_head = beginning(parse_recipe({"train": {"start": words}}, overrides), load_parts(DataConfig()))
    assert supernet is not None
    assert new_head
    assert space == supernet.space
    assert (space.relative_position, space.reg_tokens, space.embed_dims[-1], space.num_classes) == (relative, 4, 48, 10)
    assert ("blocks.0.attn.key_rows" in supernet.state_dict()) == relative


@pytest.mark.parametrize(("usual", "images", "batch"), [(1024, 240, 16), (64, 989, 64), (64, 100, 8), (64, 5, 5), (6, 1000, 6)])
def test_a_batch_is_halved_until_an_epoch_has_eight_steps(usual: int, images: int, batch: int) -> None:
    """240 images in 8 steps are 30 at most, and of 1024, 512, ... that is 16."""
    assert batch_for(usual, images) == batch


def test_only_a_batch_that_is_larger_than_all_images_is_changed_and_that_is_said() -> None:
    config = FinetuneConfig(batch_size=1024)
    assert with_fitting_batch(config, 1024, "finetune") == (config, [])
    changed, lines = with_fitting_batch(config, 240, "finetune")
    assert changed == config.model_copy(update={"batch_size": 16})
    assert lines == ["finetune: batches of 16 images, not the recipe's 1,024, since there are 240 to train on"]
