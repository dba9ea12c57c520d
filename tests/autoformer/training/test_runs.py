"""Training: repeatable, resumable to the bit, careful with files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.errors import CheckpointError, DataError, OutputExistsError
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.metric import score
from autoformer.networks.folders import extract, load_subnet, load_supernet, save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace
from autoformer.tensors import read_tensors, tensors_digest
from autoformer.training.augment import AugmentConfig
from autoformer.training.choosing import only_one
from autoformer.training.config import WITHOUT_EFFECT, FinetuneConfig, SupernetConfig, TrainConfig
from autoformer.training.runs import finetune, train_supernet
from autoformer.training.trainer import Trainer
from tests.support.trainings import dying_at

SPACE = SearchSpace(
    name="small digits", embed_dims=(16, 24), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8,
    image_sizes=(8,), patch_size=4, in_chans=1, num_classes=10, max_relative_position=3,
)  # fmt: skip
QUICK = SupernetConfig(epochs=3, batch_size=64, evaluate_every=2, drop_path_rate=0.1)
TUNE = FinetuneConfig(epochs=3, batch_size=64, evaluate_every=2, drop_path_rate=0.1)


@pytest.fixture(scope="module")
def parts() -> DataParts:
    return load_parts(DataConfig())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, parts: DataParts) -> Path:
    out = tmp_path_factory.mktemp("train") / "supernet"
    train_supernet(SPACE, parts, QUICK, out)
    return out


def weights_of(folder: Path) -> str:
    return tensors_digest(read_tensors(folder / "model.safetensors"))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained: Path, parts: DataParts, tmp_path: Path) -> None:
    train_supernet(SPACE, parts, QUICK, tmp_path / "again")
    train_supernet(SPACE, parts, QUICK, tmp_path / "other", seed=1)
    assert weights_of(trained) == weights_of(tmp_path / "again") != weights_of(tmp_path / "other")


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_do_not_change_what_is_learned(trained: Path, parts: DataParts, tmp_path: Path, workers: int) -> None:
    train_supernet(SPACE, parts, QUICK.model_copy(update={"workers": workers}), tmp_path / "s")
    assert weights_of(trained) == weights_of(tmp_path / "s")


@pytest.mark.parametrize("fatal_step", [0, 20, 33])
def test_a_training_that_died_ends_with_the_weights_of_an_undisturbed_one(
    trained: Path, parts: DataParts, tmp_path: Path, fatal_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dying_at(fatal_step, monkeypatch):
        train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    assert weights_of(trained) == weights_of(tmp_path / "s")


def flipped(content: bytes) -> bytes:
    """One bit of a weight is another: the file is as readable as before."""
    return content[:-100] + bytes([content[-100] ^ 4]) + content[-99:]


@pytest.mark.parametrize("damage", [lambda content: content[:1000], flipped])
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    damage: Callable[[bytes], bytes], trained: Path, parts: DataParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dying_at(40, monkeypatch):
        train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    files = sorted((tmp_path / "s" / "checkpoints").glob("step-*"))
    assert len(files) == 2
    files[-1].write_bytes(damage(files[-1].read_bytes()))
    with pytest.warns(UserWarning, match="going on from step-000000015"):
        train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    assert weights_of(trained) == weights_of(tmp_path / "s")


def test_when_a_bit_of_every_checkpoint_is_damaged_none_is_gone_on_from(
    parts: DataParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dying_at(40, monkeypatch):
        train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    for path in (tmp_path / "s" / "checkpoints").glob("step-*"):
        path.write_bytes(flipped(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be read: .*step-000000030\.safetensors is damaged"):
        train_supernet(SPACE, parts, QUICK, tmp_path / "s")


def test_when_no_checkpoint_can_be_read_the_file_is_named(
    parts: DataParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "s"
    with dying_at(0, monkeypatch):
        train_supernet(SPACE, parts, QUICK, folder)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "step-000000015.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    with pytest.raises(CheckpointError, match=r"step-000000015\.safetensors is truncated"):
        train_supernet(SPACE, parts, QUICK, folder)


def test_a_folder_that_holds_another_training_is_refused_and_left_alone(trained: Path, parts: DataParts) -> None:
    before = weights_of(trained)
    with pytest.raises(OutputExistsError, match="holds another run"):
        train_supernet(SPACE, parts, QUICK.model_copy(update={"epochs": 4}), trained)
    assert weights_of(trained) == before


def test_a_folder_of_other_files_is_refused(parts: DataParts, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExistsError, match="already exists"):
        train_supernet(SPACE, parts, QUICK, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_finished_training_is_loaded_and_not_repeated(trained: Path, parts: DataParts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained again"))
    supernet = train_supernet(SPACE, parts, QUICK, trained)
    assert tensors_digest(supernet.state_dict()) == weights_of(trained)


def test_the_history_holds_loss_and_the_accuracy_of_fixed_anchors(trained: Path) -> None:
    history = json.loads((trained / "supernet.json").read_text())["history"]
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert set(history[1]["scores"]) == {"smallest", "middle", "largest"}
    assert "scores" not in history[0]


@pytest.mark.slow
def test_training_learns(trained: Path, parts: DataParts, tmp_path: Path) -> None:
    """Ten classes: chance is 10 %; fresh weights give about that."""
    supernet = train_supernet(SPACE, parts, QUICK.model_copy(update={"epochs": 12, "init_std": 0.1}), tmp_path / "s")
    images = EvaluationSet.of(parts.search, parts.preprocessing)
    assert score(predictions(predict_with(supernet, SPACE.largest), images), images.labels).value > 0.4


def rates(parts: DataParts, folder: Path, **changes: Any) -> Callable[[int], float]:
    """The learning rate by step of a training of 10 epochs of 15 steps."""
    config = SupernetConfig.model_validate(
        {"epochs": 10, "batch_size": 64, "learning_rate": 1.0, "min_learning_rate": 0.0, **changes}
    )
    trainer = Trainer(Supernet(SPACE), parts, config, folder, only_one, {}, parts.preprocessing)
    assert trainer.plan.steps_per_epoch == 15

    def rate(step: int) -> float:
        trainer.steps.set_rate(step)
        return float(trainer.steps.optimizer.param_groups[0]["lr"])

    return rate


def test_the_learning_rate_warms_up_and_follows_the_cosine(parts: DataParts, tmp_path: Path) -> None:
    """Warm-up to step 15, then half a cosine over 135 steps to the minimum."""
    rate = rates(parts, tmp_path, warmup_epochs=1, warmup_learning_rate=0.0)
    assert rate(5) == pytest.approx(1 / 3)
    assert rate(15) == pytest.approx(1.0)
    assert rate(60) == pytest.approx(0.5 * (1 + math.cos(math.pi * 45 / 135)))
    assert rate(149) == pytest.approx(0.5 * (1 + math.cos(math.pi * 134 / 135)))


def test_the_schedule_by_epochs_is_one_epoch_late_as_in_the_official_code(parts: DataParts, tmp_path: Path) -> None:
    """Epochs 0 and 1 run at the warm-up's start; from the end of the warm-up the cosine counts from epoch 0."""
    rate = rates(parts, tmp_path, warmup_epochs=4, warmup_learning_rate=1e-6, schedule="epoch")
    step = (1.0 - 1e-6) / 4
    assert [rate(15 * epoch) for epoch in (0, 1)] == pytest.approx([1e-6, 1e-6])
    assert [rate(15 * epoch) for epoch in (2, 3)] == pytest.approx([1e-6 + step, 1e-6 + 2 * step])
    assert rate(15 * 6) == rate(15 * 6 + 14) == pytest.approx(0.5 * (1 + math.cos(math.pi * 5 / 10)))


def test_a_rate_given_for_another_batch_is_scaled_to_this_one() -> None:
    """DeiT: 5e-4 for 512 images, so 1e-3 for 1024."""
    assert TrainConfig(batch_size=1024, learning_rate=5e-4, learning_rate_images=512).peak_learning_rate == pytest.approx(1e-3)
    assert TrainConfig(batch_size=1024, learning_rate=5e-4).peak_learning_rate == 5e-4


def test_finetuning_starts_from_the_inherited_weights_and_is_repeatable(trained: Path, parts: DataParts, tmp_path: Path) -> None:
    supernet = load_supernet(trained)
    digests = []
    for name in ("a", "b"):
        finetune(Subnet.from_supernet(supernet, SPACE.largest), parts, TUNE, tmp_path / name)
        digests.append(weights_of(tmp_path / name))
    assert digests[0] == digests[1]
    subnet, preprocessing, classes = load_subnet(tmp_path / "a")
    assert subnet.architecture == SPACE.largest
    assert preprocessing == parts.preprocessing
    assert classes == parts.classes


def test_a_finetuning_with_a_tiny_rate_hardly_moves_the_logits(trained: Path, parts: DataParts, tmp_path: Path) -> None:
    config = FinetuneConfig(
        epochs=1, batch_size=64, learning_rate=1e-9, min_learning_rate=0.0, warmup_learning_rate=0.0, weight_decay=0.0
    )
    before = Subnet.from_supernet(load_supernet(trained), SPACE.middle)
    images = EvaluationSet.of(parts.search, parts.preprocessing).images(16)
    expected = predict_with(before)(images)
    after = finetune(Subnet.from_supernet(load_supernet(trained), SPACE.middle), parts, config, tmp_path / "f")
    assert np.abs(predict_with(after)(images) - expected).max() < 1e-4


def test_images_that_do_not_suit_the_network_are_refused(parts: DataParts, tmp_path: Path) -> None:
    other = SearchSpace.preset("micro", image_size=16, in_chans=3, num_classes=10)
    with pytest.raises(DataError, match="8 px"):
        train_supernet(other, parts, QUICK, tmp_path / "s")


def test_an_unfinished_training_is_not_taken_for_a_supernet(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="unfinished training"):
        load_supernet(tmp_path)


def test_a_truncated_supernet_is_refused_with_its_file_named(trained: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "supernet.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        load_supernet(tmp_path)


def test_damaged_weights_are_refused_whatever_they_are_loaded_for(trained: Path, tmp_path: Path) -> None:
    extract(trained, SPACE.smallest, tmp_path / "n")
    (tmp_path / "s").mkdir()
    for name in ("model.safetensors", "supernet.json"):
        (tmp_path / "s" / name).write_bytes((trained / name).read_bytes())
    for folder, load in ((tmp_path / "s", load_supernet), (tmp_path / "n", load_subnet)):
        path = folder / "model.safetensors"
        path.write_bytes(flipped(path.read_bytes()))
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or holds other weights"):
            load(folder)


def test_weights_of_another_network_are_not_those_of_the_record(trained: Path, tmp_path: Path) -> None:
    for name, changes in (("a", 0.0), ("b", 1.0)):
        subnet = Subnet.from_supernet(load_supernet(trained), SPACE.smallest)
        assert isinstance(subnet.head, nn.Linear)
        nn.init.constant_(subnet.head.bias, changes)
        digest = tensors_digest(subnet.state_dict())
        save_subnet(
            subnet, tmp_path / name, preprocessing=load_parts(DataConfig()).preprocessing, classes="0123456789",
            record={"weights_digest": digest},
        )  # fmt: skip
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="holds other weights than were written"):
        load_subnet(tmp_path / "a")


def test_mixup_and_cutmix_train_too(parts: DataParts, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"epochs": 1, "mixup": 0.8, "cutmix": 1.0})
    supernet = train_supernet(SPACE, parts, config, tmp_path / "s")
    assert all(bool(weight.isfinite().all()) for weight in supernet.state_dict().values())


@pytest.mark.slow
def test_every_training_option_changes_the_weights(trained: Path, tmp_path: Path) -> None:
    """An option that changes nothing would be a lie in the recipe."""
    parts = load_parts(DataConfig(search_fraction=0.05, test_fraction=0.8))  # five steps an epoch are enough
    subnet = Subnet.from_supernet(load_supernet(trained), SPACE.largest)
    save_subnet(subnet, tmp_path / "network", preprocessing=parts.preprocessing, classes=parts.classes, record={})
    base = {"epochs": 1, "batch_size": 64}
    changes: dict[str, dict[str, Any]] = {
        "batch_size": {"batch_size": 32}, "repeats": {"repeats": 3}, "optimizer": {"optimizer": "lamb"},
        "learning_rate": {"learning_rate": 1e-3}, "learning_rate_images": {"learning_rate_images": 32},
        "min_learning_rate": {"min_learning_rate": 1e-4}, "warmup_learning_rate": {"warmup_learning_rate": 1e-3},
        "warmup_epochs": {"warmup_epochs": 0.0}, "schedule": {"schedule": "epoch"}, "weight_decay": {"weight_decay": 0.5},
        "label_smoothing": {"label_smoothing": 0.0}, "mixup": {"mixup": 0.5}, "cutmix": {"cutmix": 1.0},
        "mix_probability": {"mixup": 0.5, "mix_probability": 0.5}, "drop_path_rate": {"drop_path_rate": 0.5},
        "clip_norm": {"clip_norm": 1e-3}, "ema_decay": {"ema_decay": 0.9}, "amp": {"amp": "bfloat16"},
        "teacher": {"teacher": {"network": str(tmp_path / "network")}}, "init_std": {"init_std": 0.05},
        "subnets": {"subnets": {"strategy": "sandwich"}},
    }  # fmt: skip
    augmentations: dict[str, object] = {
        "rotate_degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0), "shear_degrees": 5.0,
        "flip": 0.5, "color_jitter": 0.5, "rand_augment": "rand-m9-mstd0.5-inc1", "erase": 1.0,
    }  # fmt: skip
    changes |= {name: {"augment": {name: value}} for name, value in augmentations.items()}
    changes |= {crop: {"augment": {"crop": crop}} for crop in ("padded", "random_resized")}
    changes["crop_scale"] = {"augment": {"crop": "random_resized", "crop_scale": (0.1, 0.2)}}
    # in tests of their own; accumulate and checkpoint_activations keep the weights but for rounding
    elsewhere = {
        "accumulate",
        "checkpoint_activations",
        "start",
        "cut_images",
        "max_nonfinite",
        "epochs",
        "augment",
        "evaluate_every",
        "crop",
    }
    options = set(SupernetConfig.model_fields) | set(AugmentConfig.model_fields)
    assert set(changes) >= options - elsewhere - set(WITHOUT_EFFECT)
    digests = {}
    for name, change in {"plain": {}, **changes}.items():
        train_supernet(SPACE, parts, SupernetConfig.model_validate({**base, **change}), tmp_path / name)
        digests[name] = weights_of(tmp_path / name)
    assert len(set(digests.values())) == len(digests)


def test_drop_path_of_a_finetuning_reaches_the_network(trained: Path, parts: DataParts, tmp_path: Path) -> None:
    supernet = load_supernet(trained)
    for rate in (0.0, 0.6):
        config = TUNE.model_copy(update={"epochs": 1, "drop_path_rate": rate})
        finetune(Subnet.from_supernet(supernet, SPACE.largest), parts, config, tmp_path / str(rate))
    assert weights_of(tmp_path / "0.0") != weights_of(tmp_path / "0.6")


@pytest.mark.slow
def test_a_searched_resolution_is_trained_cut_out_and_finetuned_with_one_resize_rule(parts: DataParts, tmp_path: Path) -> None:
    space = SearchSpace.from_dict({**SPACE.to_dict(), "image_sizes": [4, 8], "patch_size": 2})
    train_supernet(space, parts, QUICK, tmp_path / "s")
    subnet = extract(tmp_path / "s", space.smallest, tmp_path / "net")
    loaded, preprocessing, _ = load_subnet(tmp_path / "net")
    assert (preprocessing.image_size, preprocessing.input_size) == (8, 4)
    assert loaded.architecture == space.smallest
    images = EvaluationSet.of(parts.search, parts.preprocessing)
    small = EvaluationSet.of(parts.search, preprocessing)
    through_supernet = predict_with(load_supernet(tmp_path / "s"), space.smallest)(images.images(20))
    assert np.abs(through_supernet - predict_with(subnet)(small.images(20))).max() < 1e-5
    finetune(loaded, parts, TUNE, tmp_path / "f")
    assert load_subnet(tmp_path / "f")[1] == preprocessing
