"""Training on images without labels beside the others: a teacher alone teaches them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.errors import RecipeError
from autoformer.networks.subnet import Subnet
from autoformer.networks.supernet import Supernet
from autoformer.tensors import read_tensors, tensors_digest
from autoformer.training.config import FinetuneConfig, SupernetConfig
from autoformer.training.runs import finetune, train_supernet
from autoformer.training.trainer import plan_for
from tests.support.small_images import draw_digits
from tests.support.trainings import QUICK, SPACE, dying_at, trainer_of, write_teacher


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_digits(tmp_path_factory.mktemp("others"), 120)


@pytest.fixture(scope="module")
def both(others: Path) -> DataParts:
    return load_parts(DataConfig(unlabelled=others))


@pytest.fixture(scope="module")
def teacher(both: DataParts, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_teacher(both, tmp_path_factory.mktemp("teacher") / "network")


def taught(teacher: str, **changes: Any) -> SupernetConfig:
    values = {**QUICK.model_dump(), "teacher": {"network": teacher, "weight": 0.25, "temperature": 2.0}, **changes}
    return SupernetConfig.model_validate(values)


def test_an_epoch_is_all_images_together(both: DataParts, teacher: str, tmp_path: Path) -> None:
    """989 with a label and 120 without: 17 batches of 64 instead of 15, each image at most once."""
    trainer = trainer_of(both, tmp_path, taught(teacher))
    assert trainer.plan.steps_per_epoch == 17
    seen = [facts[:, 0] for _, (_, facts) in zip(range(17), trainer.loader(0), strict=False)]
    without = int((torch.cat(seen) == -1).sum())
    assert 120 - (989 + 120 - 17 * 64) <= without <= 120


def by_hand(logits: Tensor, labels: list[int], taught: Tensor) -> float:
    """Cross entropy, smoothed by 0.1, over those with a label, and the divergence from the teacher over all, in numpy."""

    def soft(values: Any) -> Any:
        powers = np.exp(np.asarray(values, dtype=np.float64))
        return powers / powers.sum(-1, keepdims=True)

    found = np.log(soft(logits))
    known = [row for row, label in enumerate(labels) if label >= 0]
    targets = np.full((len(labels), 10), 0.1 / 10)
    for row in known:
        targets[row, labels[row]] += 0.9
    entropy = np.mean([-(targets[row] * found[row]).sum() for row in known]) if known else 0.0
    theirs, ours = soft(taught / 2.0), np.log(soft(logits / 2.0))
    divergence = np.mean((theirs * (np.log(theirs) - ours)).sum(-1)) * 2.0**2
    return float(0.75 * entropy + 0.25 * divergence)


@pytest.mark.parametrize("labels", [[3, -1, 0, -1], [-1, -1, -1, -1], [1, 2, 3, 4]])
def test_labels_count_over_the_labelled_images_and_the_teacher_over_all(
    labels: list[int], both: DataParts, teacher: str, tmp_path: Path
) -> None:
    steps = trainer_of(both, tmp_path, taught(teacher)).steps
    steps.labelled = max(1, sum(label >= 0 for label in labels))
    generator = torch.Generator().manual_seed(0)
    logits, theirs = (torch.randn(4, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    found = float(steps.loss(logits, torch.tensor(labels), theirs, None))
    assert found == pytest.approx(by_hand(logits, labels, theirs), abs=1e-6)


def test_a_step_divides_by_the_labelled_images_of_its_whole_batch(both: DataParts, teacher: str, tmp_path: Path) -> None:
    trainer = trainer_of(both, tmp_path, taught(teacher, accumulate=4))
    _, facts = next(trainer.loader(0))
    trainer.steps.run(trainer.network, *next(trainer.loader(0)), 0)
    assert trainer.steps.labelled == int((facts[:, 0] >= 0).sum()) / 4 < 16
    plain = trainer_of(both.labelled, tmp_path, taught(teacher))
    plain.steps.run(plain.network, *next(plain.loader(0)), 0)
    assert plain.steps.labelled is None


def test_pieces_of_a_step_learn_what_the_whole_does(both: DataParts, teacher: str, tmp_path: Path) -> None:
    """Eight pieces, with different numbers of labelled images; the network is in float64, its teacher in float32."""
    found = []
    for name, accumulate in (("plain", 1), ("pieces", 8)):
        torch.manual_seed(0)
        config = taught(teacher, epochs=1, accumulate=accumulate)
        found.append(train_supernet(SPACE, both, config, tmp_path / name, start=Supernet(SPACE).double()).state_dict())
    assert all(torch.allclose(weight, found[1][name], rtol=0, atol=1e-5) for name, weight in found[0].items())
    torch.manual_seed(0)
    assert max(float((weight - found[0][name]).abs().max()) for name, weight in Supernet(SPACE).state_dict().items()) > 0.01


def test_a_training_that_died_ends_with_the_same_bits(
    both: DataParts, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = taught(teacher, drop_path_rate=0.1)
    train_supernet(SPACE, both, config, tmp_path / "whole")
    with dying_at(20, monkeypatch):
        train_supernet(SPACE, both, config, tmp_path / "s")
    train_supernet(SPACE, both, config, tmp_path / "s")
    whole, resumed = (tensors_digest(read_tensors(tmp_path / name / "model.safetensors")) for name in ("whole", "s"))
    assert whole == resumed
    train_supernet(SPACE, both.labelled, config, tmp_path / "labelled")
    assert tensors_digest(read_tensors(tmp_path / "labelled" / "model.safetensors")) != whole


def test_what_a_teacher_said_of_them_is_kept_too(
    both: DataParts, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits are kept for all 1109 images, and a training that died goes on from them to the same bits."""
    config = taught(teacher)
    assert config.teacher is not None
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"views": 1})})
    assert plan_for(both, config, 0).images == 1109
    train_supernet(SPACE, both, config, tmp_path / "whole")
    with dying_at(20, monkeypatch):
        train_supernet(SPACE, both, config, tmp_path / "s")
    (rows,) = (tmp_path / "s" / "logits").glob("*/view-000.f16")
    assert rows.stat().st_size == 1109 * 10 * 2
    train_supernet(SPACE, both, config, tmp_path / "s")
    whole, resumed = (tensors_digest(read_tensors(tmp_path / name / "model.safetensors")) for name in ("whole", "s"))
    assert whole == resumed
    folders = []
    for name, parts in (("a", both), ("b", both.labelled)):
        cached = trainer_of(parts, tmp_path / name, config).cached
        assert cached is not None
        folders.append(cached.files.folder.name)
    assert folders[0] == rows.parent.name != folders[1]


def test_a_finetune_takes_them_too_and_says_so_and_folds_the_search_part_before_them(
    both: DataParts, teacher: str, tmp_path: Path
) -> None:
    config = FinetuneConfig.model_validate({"epochs": 1, "batch_size": 64, "fold_search": True, "teacher": {"network": teacher}})
    finetune(Subnet.from_space(SPACE, SPACE.smallest), both, config, tmp_path / "f")
    record = json.loads((tmp_path / "f" / "subnet.json").read_text())
    assert record["history"][0]["step"] == (len(both.train) + len(both.search) + 120) // 64
    assert record["data"]["parts"]["unlabelled"]["images"] == 120


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "only a teacher can teach; set SECTION.teacher.network, or leave data.unlabelled out"),
        ({"mixup": 0.8}, "SECTION.mixup and SECTION.cutmix mix labels, which the images of .* lack; set both to 0"),
        ({"cutmix": 1.0}, "SECTION.mixup and SECTION.cutmix mix labels"),
    ],
)
def test_they_are_refused_without_a_teacher_and_with_mixing_before_anything_is_written(
    changes: dict[str, Any], message: str, both: DataParts, teacher: str, tmp_path: Path
) -> None:
    values = {"batch_size": 64, "teacher": {"network": teacher}, **changes}
    with pytest.raises(RecipeError, match=message.replace("SECTION", "train")):
        train_supernet(SPACE, both, SupernetConfig.model_validate(values), tmp_path / "s")
    with pytest.raises(RecipeError, match=message.replace("SECTION", "finetune")):
        finetune(Subnet.from_space(SPACE, SPACE.smallest), both, FinetuneConfig.model_validate(values), tmp_path / "f")
    with pytest.raises(RecipeError, match=message.replace("SECTION", "train")):
        trainer_of(both, tmp_path / "t", SupernetConfig.model_validate(values))
    assert not any(tmp_path.iterdir())
