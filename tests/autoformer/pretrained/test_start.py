"""Starting from pretrained weights: timm's logits, an order that changes nothing, and weights that fit other images.

timm's models have random weights here, norms and biases included; expected values are timm's own logits or hand calculation.
"""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import vision_transformer
from torch import nn

from autoformer.architecture import Architecture
from autoformer.data.preprocessing import Normalisation
from autoformer.errors import ArchitectureError, AutoformerError, CheckpointError
from autoformer.networks.folders import save_supernet
from autoformer.networks.relative_position import Tables
from autoformer.networks.subnet import TIMM_NAME, Subnet
from autoformer.pretrained.adapt import Wanted, adapt_subnet
from autoformer.pretrained.start import space_around, start_from, subnet_from_timm, supernet_from_timm
from autoformer.pretrained.timm_models import timm_network
from autoformer.space import SearchSpace
from tests.support.timm_networks import SMALL, SPACE, assert_close, blocks, largest_logits, pixels, random_vit, trained_like

PLAIN: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "deit_tiny_patch16_224": {"in_chans": 1},
    "deit_small_patch16_224": {"num_heads": 6, "mlp_ratio": 2.7},
    "vit_base_patch16_224": {"global_pool": "avg", "fc_norm": False},
    "vit_small_patch16_384": {"embed_dim": 96, "num_heads": 4, "depth": 2, "pos_embed": "none"},
    "flexivit_small": {},  # positions without the class token
}


# --- timm's networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_the_largest_network_gives_the_logits_of_timm(name: str) -> None:
    model = random_vit(name, **PLAIN[name])
    images = pixels(model)
    with torch.no_grad():
        expected = model(images)
        expected64 = copy.deepcopy(model).double()(images.double())
    assert expected.std() > 0.1  # the weights matter
    supernet = supernet_from_timm(model)
    assert_close(largest_logits(supernet, images), expected)
    assert_close(largest_logits(supernet_from_timm(model.double()), images.double()), expected64, 1e-11)


@pytest.mark.parametrize("name", PLAIN)
def test_a_subnet_from_timm_gives_its_logits(name: str) -> None:
    model = random_vit(name, **PLAIN[name])
    images = pixels(model)
    subnet = subnet_from_timm(model)
    with torch.no_grad():
        assert_close(subnet(images), model(images))
        assert_close(subnet_from_timm(model.double())(images.double()), model(images.double()), 1e-11)
    assert not subnet.geometry.relative_position
    assert sum(weight.numel() for weight in subnet.parameters()) - sum(w.numel() for w in model.parameters()) == (
        48 if model.no_embed_class else 0  # the class token's position, which stays zero until trained
    )


def test_networks_of_the_supernet_extract_with_their_own_logits() -> None:
    supernet = supernet_from_timm(random_vit("deit_tiny_patch16_224")).double()
    images = pixels(supernet).double()
    for architecture in (supernet.space.smallest, supernet.space.middle, supernet.space.largest):
        subnet = Subnet.from_supernet(supernet, architecture)
        with torch.no_grad():
            assert_close(subnet(images), supernet(images, architecture), 1e-11)


def test_relative_position_is_left_out_unless_asked_for_and_then_zero() -> None:
    model = random_vit("deit_tiny_patch16_224")
    assert not supernet_from_timm(model).space.relative_position
    supernet = supernet_from_timm(model, relative_position=True)
    tables = [getattr(block.attn, name) for block in supernet.blocks for name in Tables._fields]
    assert [tuple(table.shape) for table in tables] == [(30, 16)] * 12
    assert not any(table.any() for table in tables)


def test_the_choices_follow_the_stated_rule() -> None:
    deit = subnet_from_timm(timm.create_model("deit_small_patch16_224", pretrained=False))  # 384 wide, 12 blocks, 6 heads
    space = space_around(deit.space, "around")
    assert space.embed_dims == (256, 288, 352, 384)  # 240, 288, 336 to multiples of 32
    assert space.depths == (8, 9, 10, 11, 12)
    assert space.num_heads == (3, 4, 5, 6)
    assert space.mlp_ratios == (2.0, 2.5, 3.0, 3.5, 4.0)
    assert (space.norm_eps, space.pooling, space.head_dim) == (1e-6, "token", 64)


REFUSED = [
    ("vit_tiny_patch16_224", {"qk_norm": True}, "qk_norm"),
    ("vit_tiny_patch16_224", {"global_pool": "map"}, "attention pooling .*'map'"),
    ("vit_tiny_patch16_224", {"global_pool": "max", "fc_norm": False}, "pooling 'max'"),
    ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False, "pool_include_prefix": True}, "over the class token"),
    ("vit_tiny_patch16_224", {"act_layer": "relu"}, "activation ReLU"),
    ("vit_tiny_patch16_224", {"mlp_layer": timm.layers.GatedMlp}, "GatedMlp"),
    ("vit_small_patch16_rope_mixed_224", {}, "RotaryEmbeddingMixed"),
    ("vit_small_patch16_dinov3", {"rope_type": "mrope"}, "another kind"),
    ("vit_tiny_patch16_224", {"norm_layer": timm.layers.RmsNorm}, "RmsNorm"),
    ("vit_tiny_patch16_224", {"attn_layer": "diff"}, "DiffAttention"),
    ("vit_tiny_patch16_224", {"img_size": (32, 16)}, "not square"),
    ("vit_tiny_patch16_224", {"embed_norm_layer": nn.LayerNorm}, "patch embedding"),
    ("vit_tiny_patch16_224", {"block_fn": vision_transformer.ParallelScalingBlock}, "ParallelScalingBlock"),
    ("vit_relpos_small_patch16_224", {}, "VisionTransformerRelPos"),
    ("beit_base_patch16_224", {}, "Beit"),
    ("eva02_enormous_patch14_clip_224", {}, "EvaBlockPostNorm"),
    ("eva_giant_patch14_224", {"use_post_transformer_norm": True, "use_fc_norm": True}, "another one after pooling"),
]


@pytest.mark.parametrize(("name", "options", "feature"), REFUSED)
def test_what_a_subnet_does_not_compute_is_refused_by_name(name: str, options: dict[str, Any], feature: str) -> None:
    model = timm.create_model(name, pretrained=False, **{**SMALL, **options})
    for make in (supernet_from_timm, subnet_from_timm):
        with pytest.raises(CheckpointError, match=feature) as raised:
            make(model)
        assert "\n" not in str(raised.value)


def test_options_that_change_nothing_in_evaluation_are_accepted() -> None:
    for options in ({"dynamic_img_size": True}, {"drop_rate": 0.1, "pos_drop_rate": 0.1}, {"norm_layer": nn.LayerNorm}):
        model = random_vit("vit_tiny_patch16_224", **options)
        with torch.no_grad():
            assert_close(largest_logits(supernet_from_timm(model), pixels(model)), model(pixels(model)))


# --- names, downloads and files ----------------------------------------------------------------------------------


@pytest.fixture
def small_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's models, small, and without a network to fetch weights from."""
    create = timm.create_model

    def small(name: str, *, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise OSError("cannot reach the hub\nand much more")
        return create(name, **(options if name == TIMM_NAME else {**SMALL, **options}))

    monkeypatch.setattr(timm, "create_model", small)


def stored(model: Any, path: Path, form: str) -> Path:
    state = model.state_dict()
    if form == "safetensors":
        save_file(state, path)
    elif form == "training state":
        empty = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        torch.save({"state_dict_ema": {f"module.{n}": t for n, t in state.items()}, "state_dict": empty, "epoch": 3}, path)
    else:
        torch.save({"model": state} if form == "under model" else state, path)
    return path


@pytest.mark.parametrize(
    ("form", "suffix"),
    [("safetensors", "safetensors"), ("plain", "pth"), ("under model", "bin"), ("training state", "pth.tar")],
)
def test_local_weights_give_the_logits_of_the_model_they_came_from(
    small_timm: None, tmp_path: Path, form: str, suffix: str
) -> None:
    model = random_vit("deit_tiny_patch16_224", num_classes=4, img_size=48)
    file = stored(model, tmp_path / f"weights.{suffix}", form)
    supernet = start_from(f"timm:deit_tiny_patch16_224@{file}")
    assert (supernet.space.num_classes, supernet.space.image_size) == (4, 48)
    with torch.no_grad():
        assert_close(largest_logits(supernet, pixels(model, size=48)), model(pixels(model, size=48)))


def test_weights_without_a_classifier_start_with_one_of_zeros(small_timm: None, tmp_path: Path) -> None:
    model = random_vit("deit_tiny_patch16_224", num_classes=0)
    file = stored(model, tmp_path / "weights.safetensors", "safetensors")
    supernet = start_from(f"timm:deit_tiny_patch16_224@{file}", Wanted(num_classes=6))
    assert supernet.head.weight.shape == (6, 48)
    assert not supernet.head.weight.any()
    assert subnet_from_timm(model, Wanted(num_classes=5))(pixels(model)).shape == (3, 5)


def test_a_teacher_may_be_any_network_of_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=4, in_chans=1).eval()
    torch.save(model.state_dict(), tmp_path / "resnet.pth")
    words = f"timm:resnet10t@{tmp_path / 'resnet.pth'}"
    network = timm_network(words, num_classes=4).eval()
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert_close(network(images), model(images))
    assert network.pretrained_cfg["input_size"][0] == 1
    with pytest.raises(CheckpointError, match="knows 4 classes, expected 5"):
        timm_network(words, num_classes=5)


def test_the_image_size_of_a_local_file_is_in_the_networks_description(small_timm: None, tmp_path: Path) -> None:
    model = random_vit("deit_tiny_distilled_patch16_224", img_size=48)
    torch.save(model.state_dict(), tmp_path / "deit.pth")
    network = timm_network(f"timm:deit_tiny_distilled_patch16_224@{tmp_path / 'deit.pth'}")
    assert network.pretrained_cfg["input_size"] == (3, 48, 48)


def test_a_failed_download_is_one_line_that_asks_for_a_file(small_timm: None) -> None:
    with pytest.raises(CheckpointError, match="cannot reach the hub") as raised:
        start_from("timm:deit_tiny_patch16_224")
    assert "timm:deit_tiny_patch16_224@FILE" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_model_that_cannot_be_used_is_refused_before_it_is_downloaded(small_timm: None) -> None:
    with pytest.raises(CheckpointError, match="attention pooling"):
        start_from("timm:vit_base_patch16_siglip_224")


class Foreign:
    pass


def test_files_that_do_not_fit_are_refused_in_one_line(small_timm: None, tmp_path: Path) -> None:
    model = random_vit("deit_tiny_patch16_224")
    state = model.state_dict()
    cases: dict[str, tuple[Any, str]] = {
        "distilled.pth": ({**state, "dist_token": state["cls_token"]}, "unexpected dist_token"),
        "lacks.pth": ({n: t for n, t in state.items() if n != "norm.bias"}, "missing norm.bias"),
        "wide.pth": ({**state, "cls_token": torch.zeros(1, 1, 64)}, "cls_token is"),
        "oblong.pth": (
            {**state, "pos_embed": torch.zeros(1, 16, 48)},
            r"pos_embed is \[1, 16, 48\].*give a folder whose config.json",
        ),
        "numbers.pth": ({"epoch": 3}, "no weights"),
        "object.pth": ({"model": state, "why": Foreign()}, "nothing in it was run"),
    }
    for file, (content, _) in cases.items():
        torch.save(content, tmp_path / file)
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Foreign()))
    (tmp_path / "text.safetensors").write_text("no tensors")
    expected = {file: words for file, (_, words) in cases.items()}
    expected |= {"text.pth": "text.pth", "pickle.pth": "pickle.pth", "text.safetensors": "safetensors", "none.pth": "exist"}
    for file, words in expected.items():
        with pytest.raises(CheckpointError, match=words) as raised:
            start_from(f"timm:deit_tiny_patch16_224@{tmp_path / file}")
        assert "\n" not in str(raised.value), file


def test_unknown_names_say_what_was_expected(tmp_path: Path) -> None:
    for words, message in (
        ("timm:deit_tny_patch16_224", "did you mean deit_tiny_patch16_224"),
        (str(tmp_path / "nowhere"), "timm:NAME"),
        (str(tmp_path), "no supernet"),
        (f"official:{tmp_path / 'none.pth'}", "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=message):
            start_from(words)


# --- spaces and folders ------------------------------------------------------------------------------------------


def test_a_given_space_chooses_among_the_weights() -> None:
    model = random_vit("vit_tiny_patch16_224")
    fitting = replace(supernet_from_timm(model).space, name="mine", embed_dims=(24, 48), max_relative_position=5)
    supernet = supernet_from_timm(model, space=replace(fitting, num_classes=99))
    assert supernet.space == fitting  # classes are the model's
    with torch.no_grad():
        assert_close(largest_logits(supernet, pixels(model)), model(pixels(model)))
    other = replace(fitting, depths=(2, 4), pooling="mean", norm_eps=1e-5)
    with pytest.raises(ArchitectureError, match=r"pooling token .*norm_eps 1e-06 .*depth 3 \(the space has 4\)"):
        supernet_from_timm(model, space=other)


@pytest.mark.parametrize("inside_run", [False, True])
def test_a_folder_starts_with_its_weights_and_choices(tmp_path: Path, inside_run: bool) -> None:
    supernet = trained_like(SPACE).float()
    run = tmp_path / "run"
    save_supernet(supernet, run / "supernet" if inside_run else run, source="a test")
    started = start_from(str(run), Wanted(num_classes=4))
    assert started.space == replace(SPACE, num_classes=4)
    assert torch.equal(blocks(started)[0].fc1.weight, blocks(supernet)[0].fc1.weight)
    assert start_from(str(run), space=replace(SPACE, name="deep", depths=(3,))).space.depths == (3,)

    # Its images were normalised as ImageNet's; those at hand are normalised with 0.5.
    image = torch.rand(2, 3, 16, 16)
    imagenet = (image - torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)
    started = start_from(str(run), Wanted(normalisation=Normalisation((0.5,) * 3, (0.5,) * 3)))
    assert_close(largest_logits(started, (image - 0.5) / 0.5), largest_logits(supernet, imagenet), 2e-5)


def test_classical_weights_serve_only_the_choices_they_were_made_for(tmp_path: Path) -> None:
    space = replace(SPACE, sharing="classical")
    supernet = trained_like(space).float()
    save_supernet(supernet, tmp_path / "run", source="a test")
    larger = start_from(str(tmp_path / "run"), space=replace(space, depths=(3,), image_sizes=(24,)))
    images = pixels(larger, size=24)
    subnet = adapt_subnet(Subnet.from_supernet(supernet, space.largest), Wanted(image_size=24))
    with torch.no_grad():
        assert_close(largest_logits(larger, images), subnet(images))
    with pytest.raises(ArchitectureError, match="a block for each of their own choices"):
        start_from(str(tmp_path / "run"), space=replace(space, num_heads=(2,)))


def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_supernet(trained_like(SPACE).float(), run, source="a test")
    record = json.loads((run / "supernet.json").read_text())
    for data in ({}, {"preprocessing": 3}, {"preprocessing": {"mean": "x"}}, 5):
        (run / "supernet.json").write_text(json.dumps({**record, "data": data}))
        with pytest.raises(AutoformerError, match=r"supernet\.json") as raised:
            start_from(str(run))
        assert "\n" not in str(raised.value)


def test_a_released_supernet_is_known_by_its_width(tmp_path: Path) -> None:
    torch.save({"model": {"patch_embed_super.proj.weight": torch.zeros(100, 3, 16, 16)}}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"width 100, unlike the released supernets tiny, small, base"):
        start_from(str(tmp_path / "odd.pth"))
    torch.save({"patch_embed.proj.weight": torch.zeros(100, 3, 16, 16)}, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"give timm:NAME@.*vit\.pth"):
        start_from(str(tmp_path / "vit.pth"))


def test_an_official_file_starts_with_the_weights_of_the_official_code(tmp_path: Path) -> None:
    data = Path(__file__).parents[2] / "data"
    case = next(case for case in json.loads((data / "official_small.json").read_text())["cases"] if case["id"] == "mid")
    with np.load(data / "official_small.npz") as file:
        numbers = dict(file)
    weights = {n.removeprefix("state/"): torch.from_numpy(v) for n, v in numbers.items() if n.startswith("state/")}
    torch.save({"model": {name: tensor.float() for name, tensor in weights.items()}}, tmp_path / "official.pth")
    config = case["config"]
    space = SearchSpace(
        name="of the file", embed_dims=(config["embed_dim"][0], 128), depths=(len(config["num_heads"]), 3), num_heads=(1, 2),
        mlp_ratios=(*config["mlp_ratio"], 3.0), patch_size=8, image_sizes=(64,),
    )  # fmt: skip
    supernet = start_from(f"official:{tmp_path / 'official.pth'}", Wanted(image_size=32), space=space)
    architecture = Architecture(
        embed_dim=config["embed_dim"][0], num_heads=config["num_heads"], mlp_ratio=tuple(config["mlp_ratio"])
    )
    started = start_from(str(tmp_path / "official.pth"), space=replace(space, image_sizes=(32,)))
    images = torch.from_numpy(numbers["x"].astype(np.float32))
    with torch.no_grad():
        np.testing.assert_allclose(started(images, architecture).numpy(), numbers["mid/logits"], rtol=0, atol=1e-5)
    assert supernet.space.image_size == 32
    assert start_from(str(tmp_path / "official.pth"), space=space).pos_embed.shape[1] == 8 * 8 + 1
