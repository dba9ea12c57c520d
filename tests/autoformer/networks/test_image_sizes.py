"""A network at other image sizes than it was trained at."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from autoformer.errors import ArchitectureError, CheckpointError
from autoformer.files import read_json
from autoformer.networks.folders import load_subnet, save_subnet
from autoformer.networks.positions import resample_positions
from autoformer.networks.relative_position import Tables
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from tests.support.small_spaces import shrunk
from tests.support.subnets import CLASSES, PREPROCESSING, damaged, images, make_subnet

# --- other image sizes -------------------------------------------------------------------------------------------


def test_a_larger_image_resamples_positions_and_starts_new_table_rows_from_their_neighbours() -> None:
    subnet = make_subnet()
    before = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    subnet.set_input_size(32)  # 8 × 8 patches; 4 × 4 before
    assert subnet(images(2, 32)).shape == (2, 5)
    torch.testing.assert_close(subnet.state_dict()["pos_embed"], resample_positions(before["pos_embed"], (4, 4), (8, 8)))
    for name in Tables._fields:
        old, new = before[f"blocks.1.attn.{name}"], getattr(subnet.blocks[1].attn, name)
        trained = slice(15 - 3, 15 + 4)  # distances -3 .. 3 around row 15
        assert torch.equal(new[trained], old[trained])
        assert torch.equal(new[0], old[0])  # the class token's
        assert torch.equal(new[15 + 4 :], old[15 + 3].expand(11, -1))
        assert torch.equal(new[1 : 15 - 3], old[15 - 3].expand(11, -1))


def test_rows_and_columns_of_an_oblong_image_are_told_apart() -> None:
    subnet = make_subnet()
    before = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    subnet.set_input_size((8, 32))  # 2 × 8 patches
    assert subnet(torch.randn(1, 3, 8, 32)).shape == (1, 5)
    attention = subnet.blocks[0].attn
    for name in Tables._fields:
        old, new = before[f"blocks.0.attn.{name}"], getattr(attention, name)
        assert torch.equal(new[15 + 4 :], old[15 + 3].expand(11, -1))
    with pytest.raises(ArchitectureError, match="square images only"):
        _ = subnet.cost


def test_a_detour_over_a_small_image_loses_no_trained_row() -> None:
    subnet = make_subnet(32)
    before = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    subnet.set_input_size(8)
    subnet.set_input_size(32)
    for name in Tables._fields:
        trained = slice(15 - 7, 15 + 8)
        assert torch.equal(getattr(subnet.blocks[0].attn, name)[trained], before[f"blocks.0.attn.{name}"][trained])


def test_the_same_size_changes_nothing_that_counts() -> None:
    subnet = make_subnet()
    expected = subnet(images())
    subnet.set_input_size(16)
    assert torch.equal(subnet(images()), expected)


def test_a_changed_size_is_stored_and_costed(tmp_path: Path) -> None:
    subnet = make_subnet()
    flops = subnet.cost.flops
    subnet.set_input_size(32)
    assert subnet.cost.flops > 3 * flops
    assert subnet.cost.params == sum(weight.numel() for weight in subnet.parameters())
    larger = replace(PREPROCESSING, image_size=32)
    save_subnet(subnet, tmp_path / "out", preprocessing=larger, classes=CLASSES, record={})
    loaded, preprocessing, _ = load_subnet(tmp_path / "out")
    assert preprocessing.image_size == 32
    assert torch.equal(loaded(images(2, 32)), subnet(images(2, 32)))


def test_positions_come_back_from_an_oblong_grid_of_as_many_patches() -> None:
    subnet = make_subnet()  # 4 × 4 patches
    assert subnet.pos_embed is not None
    subnet.set_input_size((8, 32))  # 2 × 8
    with torch.no_grad():
        subnet.pos_embed[0, 1:] = torch.arange(8.0).repeat(2)[:, None]  # what a patch's column says, and nothing of its row
    subnet.set_input_size(16)
    image = subnet.pos_embed[0, 1:, 0].view(4, 4)
    torch.testing.assert_close(image, image[:1].expand(4, 4))
    assert (image[0].diff() > 1).all()
    for size in ((8, 12), 32, (12, 20)):
        subnet.set_input_size(size)
    assert subnet(torch.randn(1, 3, 12, 20)).shape == (1, 5)


@pytest.mark.parametrize("size", [(8, 32), 32, (16, 24), 8])
@pytest.mark.parametrize("absolute_position", [True, False])
def test_timm_opens_a_folder_at_another_size_as_the_network_changes_its_own(
    tmp_path: Path, size: int | tuple[int, int], absolute_position: bool
) -> None:
    changed = make_subnet(absolute_position=absolute_position)
    save_subnet(changed, tmp_path / "net", preprocessing=PREPROCESSING, classes=CLASSES, record={})
    changed.set_input_size(size)
    opened = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, img_size=size).eval()
    x = torch.randn(2, 3, *changed.patch_embed.img_size)
    assert torch.equal(opened(x), changed(x))


MANY_SIZES = replace(shrunk("edge"), image_sizes=(8, 16, 32), depths=(2,))


def searched_subnet(image_size: int) -> tuple[Supernet, Subnet]:
    """A network of one of several image sizes, and the supernet it comes from."""
    supernet = Supernet(MANY_SIZES).eval()
    with torch.no_grad():
        for weight in supernet.parameters():
            weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(weight.numel()))
    architecture = replace(MANY_SIZES.sample(random.Random(0)), image_size=image_size)
    return supernet, Subnet.from_supernet(supernet, architecture)


def test_the_searched_size_of_an_architecture_is_the_size_its_network_is_opened_at(tmp_path: Path) -> None:
    _, subnet = searched_subnet(16)
    save_subnet(subnet, tmp_path / "net", preprocessing=PREPROCESSING, classes=CLASSES, record={})
    opened = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, img_size=32)
    assert opened.architecture == replace(subnet.architecture, image_size=32)
    assert opened.cost.params == sum(weight.numel() for weight in opened.parameters())
    subnet.set_input_size(32)
    assert opened.cost == subnet.cost
    larger = replace(PREPROCESSING, image_size=32)
    save_subnet(opened, tmp_path / "larger", preprocessing=larger, classes=CLASSES, record={})
    assert load_subnet(tmp_path / "larger")[0].architecture == opened.architecture

    config = read_json(tmp_path / "net" / "config.json")
    config["model_args"]["searched_size"] = 32
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="searched_size 32 contradicts img_size 16"):
        load_subnet(tmp_path / "net")


@pytest.mark.parametrize("way", ["in memory", "through a folder", "opened by timm"])
def test_a_network_of_small_images_keeps_what_its_supernet_learned_of_farther_distances(tmp_path: Path, way: str) -> None:
    supernet, subnet = searched_subnet(16)  # 4 × 4 patches of at most 8 × 8
    if way != "in memory":
        save_subnet(subnet, tmp_path / "net", preprocessing=PREPROCESSING, classes=CLASSES, record={})
    if way == "through a folder":
        subnet, *_ = load_subnet(tmp_path / "net")
    if way == "opened by timm":
        subnet = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, img_size=32).eval()
    else:
        subnet.set_input_size(32)
    for name in Tables._fields:
        learned, own = getattr(supernet.blocks[0].attn, name), getattr(subnet.blocks[0].attn, name)
        assert torch.equal(own[15 - 7 : 15 + 8], learned[15 - 7 : 15 + 8])
    subnet.set_input_size(48)  # 12 × 12
    own, learned = (network.get_parameter("blocks.0.attn.key_rows") for network in (subnet, supernet))
    assert torch.equal(own[15 + 8], learned[15 + 7])


def test_a_detour_over_a_small_image_and_a_folder_loses_no_trained_row(tmp_path: Path) -> None:
    subnet = make_subnet(32)
    before = {name: tensor.clone() for name, tensor in subnet.state_dict().items()}
    subnet.set_input_size(16)
    save_subnet(subnet, tmp_path / "net", preprocessing=PREPROCESSING, classes=CLASSES, record={})
    loaded, *_ = load_subnet(tmp_path / "net")
    loaded.set_input_size(32)
    for name in Tables._fields:
        table = f"blocks.0.attn.{name}"
        assert torch.equal(loaded.state_dict()[table][15 - 7 : 15 + 8], before[table][15 - 7 : 15 + 8])


def test_folders_from_before_the_trained_grid_was_stored_still_open(folder: Path, tmp_path: Path) -> None:
    copied = damaged(folder, tmp_path)
    config = read_json(copied / "config.json")
    assert config["model_args"].pop("trained_grid") == 4
    (copied / "config.json").write_text(json.dumps(config))
    changed = make_subnet()
    changed.set_input_size(32)
    opened = timm.create_model(f"local-dir:{copied}", pretrained=True, img_size=32).eval()
    assert torch.equal(opened(images(2, 32)), changed(images(2, 32)))
    assert load_subnet(copied)[0].geometry.trained_grid == (4, 4)
    for odd in (3, [4, 4, 4], "8", True):  # less than its images have, or no grid
        config["model_args"]["trained_grid"] = odd
        (copied / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="trained_grid must"):
            load_subnet(copied)


def test_half_precision_is_resampled_in_float32_and_stays_half() -> None:
    exact, half = make_subnet(), make_subnet().bfloat16()
    for subnet in (exact, half):
        subnet.set_input_size(24)
    assert half.pos_embed is not None
    assert exact.pos_embed is not None
    assert half.pos_embed.dtype == torch.bfloat16
    torch.testing.assert_close(half.pos_embed.float(), exact.pos_embed, rtol=2**-7, atol=2**-7)


def test_a_frozen_position_stays_frozen_and_the_patch_changes_alone() -> None:
    subnet = make_subnet()
    assert subnet.pos_embed is not None
    subnet.pos_embed.requires_grad_(False)
    subnet.set_input_size(patch_size=2)  # images stay 16 px
    assert not subnet.pos_embed.requires_grad
    assert subnet.pos_embed.shape[1] == 1 + 8 * 8
    assert subnet(images()).shape == (2, 5)
    assert subnet.cost.params == sum(weight.numel() for weight in subnet.parameters())
    assert subnet.feature_info[0]["reduction"] == 2
    with pytest.raises(ArchitectureError, match="expected a square patch"):
        subnet.set_input_size(patch_size=(2, 4))
