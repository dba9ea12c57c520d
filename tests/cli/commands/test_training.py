"""Commands around training: what it will cost, what it starts from, whether its result is worth a search, and bad input."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from autoformer.cli.chain.recipe import load_recipe
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.evaluate import EvaluationSet
from autoformer.metric import kendall_tau
from autoformer.networks.folders import load_subnet, load_supernet, save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.search.audit import audit
from autoformer.space import SearchSpace
from tests.support.commands import command
from tests.support.short_runs import QUICKSTART, SHORT
from tests.support.small_images import draw_images
from tests.support.trainings import SPACE

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))
TRAINING = [word for setting in SHORT if setting.startswith("train") for word in ("--set", setting)]


@pytest.fixture(scope="module")
def parts() -> DataParts:
    return load_parts(DataConfig())


@pytest.fixture
def digits_supernet(finished_run: Path) -> Path:
    return finished_run / "supernet"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_read_and_says_where_it_comes_from(path: Path) -> None:
    load_recipe(path)
    header = path.read_text().split("\ndata:")[0]
    assert all(f"# {word}" in header for word in ("source", "command", "cost"))


def test_the_published_recipe_has_the_published_numbers() -> None:
    """README and code of the official repository: 1024 images, 5e-4 per 512, 500 epochs, 20 of warm-up, DeiT's augmentation."""
    train = load_recipe(next(path for path in RECIPES if path.stem == "imagenet-small")).train
    assert (train.epochs, train.warmup_epochs, train.batch_size, train.repeats) == (500, 20, 1024, 3)
    assert train.peak_learning_rate == pytest.approx(1e-3)
    assert (train.min_learning_rate, train.warmup_learning_rate, train.schedule) == (1e-5, 1e-6, "epoch")
    assert (train.weight_decay, train.drop_path_rate, train.clip_norm, train.label_smoothing) == (0.05, 0.1, None, 0.1)
    assert (train.mixup, train.cutmix, train.augment.erase) == (0.8, 1.0, 0.25)
    assert (train.augment.rand_augment, train.augment.crop_scale) == ("rand-m9-mstd0.5-inc1", (0.08, 1.0))
    assert train.subnets.strategy == "uniform"
    assert not train.subnets.freeze_unused


def test_a_training_needs_a_folder_and_a_dry_run_none() -> None:
    assert "give --out, the folder of the supernet" in command("train", QUICKSTART).error


@pytest.mark.slow
def test_a_dry_run_tells_steps_time_and_disk_and_writes_nothing(tmp_path: Path) -> None:
    answer = command("train", QUICKSTART, "--out", tmp_path / "s", "--dry-run", "--json", "--quiet", *TRAINING)
    assert answer.code == 0, answer.err
    price = answer.json["price"]
    assert price["steps"] == 4 * (989 // 64)
    assert price["hours"] == pytest.approx(price["seconds_per_step"] * price["steps"] / 3600)
    assert 0 <= price["wait_share"] < 1
    assert price["disk_bytes"] > 3 * price["checkpoint_bytes"] > 9 * 190_000 * 4  # weights and two moments, thrice
    assert answer.json["parts"]["train"]["images"] == 989
    assert not (tmp_path / "s").exists()
    before = set(Path.cwd().iterdir())
    shown = command("train", QUICKSTART, "--dry-run", "--quiet", *TRAINING).out
    assert set(Path.cwd().iterdir()) == before
    assert "time per step" in shown
    assert re.search(r"^in all +[\d.]+ s, on 1 process", shown, re.MULTILINE), shown


@pytest.mark.slow
def test_a_dry_run_and_a_training_say_how_large_the_logits_of_a_teacher_will_be(parts: DataParts, tmp_path: Path) -> None:
    """989 images in 10 classes of 2 bytes, three views: 59,340 bytes."""
    words = ("train", QUICKSTART, "--out", tmp_path / "s", *TRAINING)
    network, place = Subnet.from_space(SPACE, SPACE.largest), tmp_path / "network"
    save_subnet(network, place, preprocessing=parts.preprocessing, classes=parts.classes, record={})
    teacher = (f"train.teacher.network={place}", "train.teacher.views=3")
    words += tuple(word for setting in (*teacher, "train.mixup=0", "train.cutmix=0") for word in ("--set", setting))
    price = command(*words, "--dry-run", "--json").json["price"]
    assert price["logits_bytes"] == 3 * 989 * 10 * 2
    assert price["hours"] == pytest.approx(price["seconds_per_step"] * price["steps"] / 3600 + price["teacher_hours"])
    assert "its logits take 0.1 MiB of the disk" in command(*words, "--dry-run", "--quiet").out
    said = command(*words, "--set", "train.epochs=1", "--set", "train.teacher.views=2").err
    assert "the teacher's logits of 1 view of 989 images take 0.0 MiB while it trains" in said
    assert "teacher's logits, view 1 of 1: 989/989" in said
    assert not (tmp_path / "s" / "logits").exists()


def test_an_audit_shows_anchors_and_random_networks_and_decides(digits_supernet: Path) -> None:
    answer = command("audit", digits_supernet, "--networks", 6, "--json", "--quiet")
    found = answer.json
    assert answer.code == (0 if found["searchable"] else 1)
    assert [entry["name"] for entry in found["networks"][:3]] == ["smallest", "middle", "largest"]
    assert len(found["networks"]) == 9
    assert found["reasons"]
    shown = command("audit", digits_supernet, "--networks", 6, "--quiet")
    assert shown.out.rstrip().splitlines()[-1] in ("searchable", "not searchable")


def test_a_supernet_that_was_never_trained_is_not_searchable(parts: DataParts) -> None:
    space = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
    torch.manual_seed(0)
    found = audit(Supernet(space).eval(), EvaluationSet.of(parts.search, parts.preprocessing), count=8)
    assert not found.searchable
    assert any("no better than always predicting" in reason for reason in found.reasons)


def test_kendalls_tau_of_a_constant_is_zero() -> None:
    assert kendall_tau([1, 2, 3], [1, 2, 3]) == 1
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    assert kendall_tau([1, 2, 3], [5, 5, 5]) == 0


def test_a_training_starts_from_a_run_on_images_of_other_classes_and_size(digits_supernet: Path, tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", each=30, size=16)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        yaml.safe_dump({"train": {"epochs": 1, "batch_size": 16}, "data": {"source": str(tmp_path / "photos"), "image_size": 16}})
    )
    answer = command("train", recipe, "--out", tmp_path / "s", "--from", digits_supernet, "--quiet")
    assert answer.code == 0, answer.err
    before, after = load_supernet(digits_supernet).space, load_supernet(tmp_path / "s").space
    assert (after.in_chans, after.image_sizes) == (3, (16,))
    assert after.num_classes == len(list((tmp_path / "photos").iterdir()))
    assert (after.embed_dims, after.depths, after.patch_size) == (before.embed_dims, before.depths, before.patch_size)
    again = command("train", recipe, "--out", tmp_path / "s", "--from", digits_supernet, "--quiet")
    assert again.code == 0, again.err
    assert "start is" in command("train", recipe, "--out", tmp_path / "s", "--quiet").error


@pytest.mark.slow
def test_a_timm_network_is_finetuned_on_new_images_and_becomes_one_of_ours(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", each=20, size=32)
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=7, img_size=32)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    words = ("--data", tmp_path / "photos", "--set", "epochs=1", "--set", "batch_size=16", "--quiet")
    answer = command("finetune", f"timm:vit_tiny_patch16_224@{tmp_path / 'vit.safetensors'}", "--out", tmp_path / "f", *words)
    assert answer.code == 0, answer.err
    subnet, preprocessing, classes = load_subnet(tmp_path / "f")
    assert (subnet.embed_dim, subnet.architecture.depth, preprocessing.input_size) == (192, 12, 32)
    assert len(classes) == subnet.num_classes == len(list((tmp_path / "photos").iterdir()))
    assert "brings no images" in command("finetune", "timm:vit_tiny_patch16_224", "--out", tmp_path / "g").error


def test_a_network_of_ours_gets_a_new_head_and_size_for_new_images(finished_run: Path, tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", each=20, size=24)
    words = ("--data", tmp_path / "photos", "--image-size", 24, "--set", "epochs=1", "--set", "batch_size=16")
    answer = command("finetune", finished_run / "finetuned", "--out", tmp_path / "f", *words)
    assert answer.code == 0, answer.err
    assert "a new head for" in answer.err
    before, _, _ = load_subnet(finished_run / "finetuned")
    after, preprocessing, _ = load_subnet(tmp_path / "f")
    assert (after.in_chans, preprocessing.input_size) == (3, 24)
    assert after.embed_dim == before.embed_dim
    assert json.loads((tmp_path / "f" / "subnet.json").read_text())["data"]["source"] == str(tmp_path / "photos")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "train.optimizer=adamx"), "timm has no optimizer 'adamx'; near are"),
        (("--set", "train.batch_size=5000"), "batch_size 5000 is larger than the train part of 989 images"),
        (("--set", "train.epoch=5"), "did you mean 'train.epochs'?"),
        (("--set", "train.subnets.strategy=sandwhich"), "train.subnets.strategy = 'sandwhich'"),
        (("--set", "train.mixup=0.8", "--set", "train.batch_size=33"), "must be a multiple of 2"),
        (("--data", "nowhere/photos"), "data source 'nowhere/photos' is no folder or .tar file that exists"),
        (("--from", "nowhere"), "cannot start from 'nowhere'"),
        (("--from", "timm:vit_small_patch16_224@missing.pth"), "missing.pth does not exist"),
        (("--from", "timm:vit_smal_patch16_224"), "did you mean"),
        (("--set", "train.teacher.network=timm:resnet1"), "timm has no model 'resnet1'"),
        (
            ("--set", "train.teacher.network=x", "--set", "train.teacher.views=2", "--set", "train.mixup=0.5"),
            "train: teacher.views keeps the teacher's logits of single images, which mixup and cutmix mix; set mixup",
        ),
        (
            (
                "--set",
                "train.teacher.network=x",
                "--set",
                "train.teacher.views=90",
                "--set",
                "train.epochs=90",
                "--set",
                "train.teacher.cache_mib=1",
            ),
            "for each of 989 images, 2 MiB, and teacher.cache_mib is 1; lower views to 53 or raise cache_mib",
        ),
    ],
)
def test_bad_input_is_one_clear_line(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    answer = command("train", QUICKSTART, "--out", tmp_path / "s", "--quiet", *TRAINING, *words)
    assert said in answer.error


@pytest.mark.slow
def test_tensorboard_gets_what_the_log_holds_and_its_absence_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train", QUICKSTART, "--quiet", "--set", "train.epochs=1", "--set", "train.tensorboard=true")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        assert "pip install tensorboard" in command(*words, "--out", tmp_path / "without").error
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert command(*words, "--out", tmp_path / "with").code == 0
    events = EventAccumulator(str(tmp_path / "with" / "tensorboard"))
    events.Reload()
    (record,) = map(json.loads, (tmp_path / "with" / "log.jsonl").read_text().splitlines())
    (loss,) = events.Scalars("epoch/loss")
    assert (loss.step, loss.value) == (record["step"], pytest.approx(record["loss"]))
    (score,) = events.Scalars("score/largest")
    assert score.value == pytest.approx(record["scores"]["largest"]["value"])


def test_as_many_but_other_classes_get_a_new_head_and_can_be_resumed(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", each=20, size=16)
    words = ("--set", "train.epochs=1", "--set", "train.batch_size=16", "--set", "data.image_size=16", "--quiet")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train: {epochs: 1}\n")
    assert command("train", recipe, "--data", tmp_path / "photos", "--out", tmp_path / "super", *words).code == 0
    shutil.copytree(tmp_path / "photos", tmp_path / "others")
    for folder in list((tmp_path / "others").iterdir()):
        folder.rename(folder.with_name(f"x{folder.name}"))
    spoken = tuple(word for word in words if word != "--quiet")
    told = command("train", recipe, "--data", tmp_path / "others", "--from", tmp_path / "super", "--out", tmp_path / "s", *spoken)
    assert "a new head for" in told.err
    told = command("train", recipe, "--data", tmp_path / "photos", "--from", tmp_path / "super", "--out", tmp_path / "t", *spoken)
    assert (told.code, "a new head for" in told.err) == (0, False)
    assert command("extract", "--supernet", tmp_path / "super", "--architecture", "largest", "--out", tmp_path / "net").code == 0
    tune = ("finetune", tmp_path / "net", "--data", tmp_path / "others", "--set", "batch_size=16", "--out", tmp_path / "f")
    assert command(*tune, "--set", "epochs=1").code == 0
    identity = json.loads((tmp_path / "f" / "identity.json").read_text())
    assert command(*tune, "--set", "epochs=1").code == 0
    shutil.rmtree(tmp_path / "f")
    assert command(*tune, "--set", "epochs=1", "--seed", 5).code == 0
    assert json.loads((tmp_path / "f" / "identity.json").read_text())["weights"] == identity["weights"]


def test_images_left_out_at_the_start_stay_out_without_reading_all_of_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_images(tmp_path / "photos", each=20, size=16)
    first = min((tmp_path / "photos").rglob("*.png"))
    first.write_bytes(b"no image")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train: {epochs: 1, batch_size: 16}\ndata: {unreadable: skip, image_size: 16}\n")
    words = ("train", recipe, "--data", tmp_path / "photos", "--out", tmp_path / "s", "--quiet")
    assert command(*words).code == 0
    (left_out,) = json.loads((tmp_path / "s" / "data.json").read_text())["unreadable"].values()
    assert [Path(name).name for name in left_out] == [first.name]
    (tmp_path / "s" / "supernet.json").unlink()  # as if it had been killed at the end
    monkeypatch.setattr("autoformer.cli.chain.starting.check_readable", lambda *_: pytest.fail("read all images again"))
    assert command(*words).code == 0


def test_a_finetuning_tells_the_score_of_the_weights_it_kept(finished_run: Path, tmp_path: Path) -> None:
    settings = [f"--set={word}" for word in ("epochs=12", "patience=2", "learning_rate=0.05", "warmup_epochs=0")]
    answer = command("finetune", finished_run / "finetuned", "--out", tmp_path / "f", "--json", "--quiet", *settings)
    record = json.loads((tmp_path / "f" / "subnet.json").read_text())
    assert answer.json["kept_epoch"]["epoch"] == record["best"]["epoch"] < answer.json["last_epoch"]["epoch"]
    assert answer.json["kept_epoch"]["scores"]["network"]["value"] == record["best"]["score"]


def test_an_audit_on_other_images_is_refused(digits_supernet: Path, tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", each=20, size=16)
    assert "3 channels" in command("audit", digits_supernet, "--data", tmp_path / "photos").error


def test_finetuning_takes_settings_of_the_data(finished_run: Path, tmp_path: Path) -> None:
    words = ("finetune", finished_run / "finetuned", "--out", tmp_path / "f", "--quiet", "--set", "epochs=1")
    assert command(*words, "--set", "data.search_fraction=0.3").code == 0
    assert json.loads((tmp_path / "f" / "data.json").read_text())["config"]["search_fraction"] == 0.3
