"""Training: repeatable, resumable to the bit, careful with files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from autoformer.augment import AugmentConfig
from autoformer.checkpoint import read_tensors, tensors_digest
from autoformer.data import DataConfig, DataParts, load_parts
from autoformer.errors import CheckpointError, DataError, InterruptedRunError, OutputExistsError
from autoformer.evaluate import EvaluationSet, accuracy, correct, predict_with
from autoformer.extract import extract
from autoformer.space import SearchSpace
from autoformer.subnet import Subnet
from autoformer.subnet_folder import load_subnet
from autoformer.supernet import Supernet
from autoformer.train import TrainConfig, Trainer, finetune, load_supernet, train_supernet, uniform_choice

SPACE = SearchSpace(
    name="small digits", embed_dims=(16, 24), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8,
    image_sizes=(8,), patch_size=4, in_chans=1, num_classes=10, max_relative_position=3,
)  # fmt: skip
WITHOUT_EFFECT_ON_WEIGHTS = {"epochs", "amp", "augment", "workers", "evaluate_every", "keep_checkpoints"}  # amp: on GPUs only
QUICK = TrainConfig(epochs=3, batch_size=64, evaluate_every=2, drop_path_rate=0.1)


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
    steps = Trainer._step

    def dying(self: Trainer, optimizer: object, mixup: None, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        if step == fatal_step:
            raise MemoryError("died")
        return steps(self, optimizer, mixup, pixels, labels, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", dying)
        with pytest.raises(MemoryError):
            train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    assert weights_of(trained) == weights_of(tmp_path / "s")


def test_ctrl_c_says_how_to_go_on(parts: DataParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", interrupted)
    with pytest.raises(InterruptedRunError, match="run the same command again"):
        train_supernet(SPACE, parts, QUICK, tmp_path / "s")


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    trained: Path, parts: DataParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Trainer._step

    def dying(self: Trainer, optimizer: object, mixup: None, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        if step == 40:
            raise MemoryError("died")
        return steps(self, optimizer, mixup, pixels, labels, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", dying)
        with pytest.raises(MemoryError):
            train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    files = sorted((tmp_path / "s" / "checkpoints").iterdir())
    assert len(files) == 2
    files[-1].write_bytes(files[-1].read_bytes()[:1000])
    with pytest.warns(UserWarning, match="going on from epoch-000001"):
        train_supernet(SPACE, parts, QUICK, tmp_path / "s")
    assert weights_of(trained) == weights_of(tmp_path / "s")


def test_when_no_checkpoint_can_be_read_the_file_is_named(
    parts: DataParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(self: Trainer, *_: object) -> Tensor:
        raise MemoryError

    folder = tmp_path / "s"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", dying)
        with pytest.raises(MemoryError):
            train_supernet(SPACE, parts, QUICK, folder)
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "epoch-000001.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    with pytest.raises(CheckpointError, match=r"epoch-000001\.safetensors is truncated"):
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
    assert set(history[1]["accuracy"]) == {"smallest", "middle", "largest"}
    assert "accuracy" not in history[0]


def test_training_learns(trained: Path, parts: DataParts, tmp_path: Path) -> None:
    """Ten classes: chance is 10 %; fresh weights give about that."""
    supernet = train_supernet(SPACE, parts, QUICK.model_copy(update={"epochs": 12, "init_std": 0.1}), tmp_path / "s")
    images = EvaluationSet.of(parts.search, parts.preprocessing)
    assert accuracy(correct(predict_with(supernet, SPACE.largest), images)).value > 0.4


def test_the_architecture_of_a_step_depends_on_seed_and_step_alone_and_covers_the_space() -> None:
    choose, again = uniform_choice(SPACE, 3), uniform_choice(SPACE, 3)
    drawn = [choose(step) for step in range(400)]
    assert drawn == [again(step) for step in range(400)]
    assert drawn != [uniform_choice(SPACE, 4)(step) for step in range(400)]
    assert len(set(drawn)) == SPACE.size


def test_the_learning_rate_warms_up_and_follows_the_cosine(parts: DataParts, tmp_path: Path) -> None:
    """Warm-up to step 10, then half a cosine over 90 steps to the minimum."""
    config = TrainConfig(epochs=10, warmup_epochs=1, learning_rate=1.0, min_learning_rate=0.0)
    network = Supernet(SPACE)
    trainer = Trainer(network, parts, config, tmp_path, uniform_choice(SPACE, 0), {})
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    schedule = trainer._schedule(optimizer, 10)

    def rate(step: int) -> float:
        schedule.step_update(step)
        return float(optimizer.param_groups[0]["lr"])

    assert rate(5) == pytest.approx(0.5)
    assert rate(10) == pytest.approx(1.0)
    assert rate(55) == pytest.approx(0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert rate(99) == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_finetuning_starts_from_the_inherited_weights_and_is_repeatable(trained: Path, parts: DataParts, tmp_path: Path) -> None:
    supernet = load_supernet(trained)
    digests = []
    for name in ("a", "b"):
        finetune(Subnet.from_supernet(supernet, SPACE.largest), parts, QUICK, tmp_path / name)
        digests.append(weights_of(tmp_path / name))
    assert digests[0] == digests[1]
    subnet, preprocessing, classes = load_subnet(tmp_path / "a")
    assert subnet.architecture == SPACE.largest
    assert preprocessing == parts.preprocessing
    assert classes == parts.classes


def test_a_finetuning_with_a_tiny_rate_hardly_moves_the_logits(trained: Path, parts: DataParts, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"epochs": 1, "learning_rate": 1e-9, "min_learning_rate": 0.0, "weight_decay": 0.0})
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


def test_mixup_and_cutmix_train_too(parts: DataParts, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"epochs": 1, "mixup": 0.8, "cutmix": 1.0})
    supernet = train_supernet(SPACE, parts, config, tmp_path / "s")
    assert all(bool(weight.isfinite().all()) for weight in supernet.state_dict().values())


def test_every_training_option_changes_the_weights(trained: Path, parts: DataParts, tmp_path: Path) -> None:
    """An option that changes nothing would be a lie in the recipe."""
    one = QUICK.model_copy(update={"epochs": 1})
    train_supernet(SPACE, parts, one, tmp_path / "plain")
    changes: dict[str, object] = {
        "batch_size": 32, "learning_rate": 1e-3, "min_learning_rate": 1e-4, "warmup_epochs": 0.0, "weight_decay": 0.5,
        "label_smoothing": 0.0, "mixup": 0.5, "cutmix": 1.0, "drop_path_rate": 0.5, "clip_norm": 1e-3, "init_std": 0.05,
    }  # fmt: skip
    augmentations: dict[str, object] = {
        "crop": "random_resized", "rotate_degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0), "shear_degrees": 5.0,
        "flip": 0.5, "color_jitter": 0.5, "rand_augment": "rand-m9-mstd0.5-inc1", "erase": 1.0,
    }  # fmt: skip
    configs = {name: one.model_copy(update={name: value}) for name, value in changes.items()}
    for name, value in augmentations.items():
        configs[name] = one.model_copy(update={"augment": one.augment.model_copy(update={name: value})})
    crop = one.augment.model_copy(update={"crop": "random_resized", "crop_scale": (0.1, 0.2)})
    configs["crop_scale"] = one.model_copy(update={"augment": crop})
    assert set(configs) >= set(AugmentConfig.model_fields) | (set(TrainConfig.model_fields) - WITHOUT_EFFECT_ON_WEIGHTS)
    digests = {}
    for name, config in configs.items():
        train_supernet(SPACE, parts, config, tmp_path / name)
        digests[name] = weights_of(tmp_path / name)
    assert weights_of(tmp_path / "plain") not in digests.values()
    assert len(set(digests.values())) == len(digests)


def test_drop_path_of_a_finetuning_reaches_the_network(trained: Path, parts: DataParts, tmp_path: Path) -> None:
    supernet = load_supernet(trained)
    for rate in (0.0, 0.6):
        config = QUICK.model_copy(update={"epochs": 1, "drop_path_rate": rate})
        finetune(Subnet.from_supernet(supernet, SPACE.largest), parts, config, tmp_path / str(rate))
    assert weights_of(tmp_path / "0.0") != weights_of(tmp_path / "0.6")


def test_a_loss_that_is_not_finite_ends_the_training_with_advice(
    parts: DataParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_step", lambda self, *_: torch.tensor(float("nan")))
    with pytest.raises(CheckpointError, match="learning_rate"):
        train_supernet(SPACE, parts, QUICK, tmp_path / "s")


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
    finetune(loaded, parts, QUICK, tmp_path / "f")
    assert load_subnet(tmp_path / "f")[1] == preprocessing
