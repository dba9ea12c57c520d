"""A teacher whose logits are kept: the same as if it were asked, each view once, to the bit after any interruption."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, DataParts
from autoformer.errors import InterruptedRunError, RecipeError, TrainingError
from autoformer.files import sole_worker
from autoformer.networks.folders import save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.tensors import tensors_digest
from autoformer.training.batches import Plan
from autoformer.training.cached_teacher import CachedTeacher
from autoformer.training.config import FinetuneConfig, ParentConfig, SupernetConfig, TeacherConfig, TrainConfig
from autoformer.training.logit_files import LogitFiles
from autoformer.training.runs import finetune, rehearse, train_supernet
from autoformer.training.teacher import Teacher
from autoformer.training.trainer import Surroundings, Trainer, plan_for
from tests.support.trainings import SPACE, dying_at, trainer_of

VIEWS, EPOCHS = 2, 4
IMAGES, CHUNKS, STEPS = 360, 3, 5  # in the train part, of 128 of them, and of an epoch in batches of 64


@pytest.fixture(scope="module")
def parts() -> DataParts:
    """Few digits to train on."""
    found = load_parts(DataConfig(search_fraction=0.05, test_fraction=0.75))
    assert len(found.train) == IMAGES
    return found


def write_teacher(folder: Path, parts: DataParts, seed: int = 0, size: float = 4.0) -> Path:
    """A network whose logits are about `size`, wrong as they may be."""
    torch.manual_seed(seed)
    network = Subnet.from_space(SPACE, SPACE.largest)
    with torch.no_grad():
        network.get_parameter("head.weight").normal_().mul_(size / network.get_parameter("head.weight").shape[1] ** 0.5)
    save_subnet(network, folder, preprocessing=parts.preprocessing, classes=parts.classes, record={})
    return folder


@pytest.fixture(scope="module")
def teacher(parts: DataParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "network", parts)


def config_of(place: Path, teaching: dict[str, Any] | None = None, **changes: Any) -> SupernetConfig:
    values = {"epochs": EPOCHS, "batch_size": 64, "evaluate_every": 4, "augment": {"erase": 0.5}, **changes}
    return SupernetConfig.model_validate({**values, "teacher": {"network": str(place), "views": VIEWS, **(teaching or {})}})


@pytest.fixture(scope="module")
def undisturbed(teacher: Path, parts: DataParts, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights of a training that nothing happens to."""
    return trained(parts, config_of(teacher), tmp_path_factory.mktemp("undisturbed") / "s")


def trained(parts: DataParts, config: SupernetConfig, folder: Path, around: Surroundings | None = None) -> str:
    return tensors_digest(train_supernet(SPACE, parts, config, folder, around=around).state_dict())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of a teacher is about."""
    found: list[int] = []
    answer = Teacher.__call__

    def counted(self: Teacher, images: Tensor) -> Tensor:
        found.append(len(images))
        return answer(self, images)

    monkeypatch.setattr(Teacher, "__call__", counted)
    return found


def filled(trainer: Trainer, epoch: int) -> CachedTeacher:
    assert trainer.cached is not None
    assert trainer.cached.fill(epoch, trainer.world, trainer.around.progress, lambda: False)
    return trainer.cached


# --- views -------------------------------------------------------------------------------------------------------


def test_views_are_taken_in_turns_and_are_other_images_each() -> None:
    plan = Plan(images=40, batch_size=10, epochs=7, repeats=1, seed=5, views=3)
    epochs = [[plan.batch(step) for step in range(4 * epoch, 4 * epoch + 4)] for epoch in range(7)]
    taken = [{key for batch in epoch for key in batch} for epoch in epochs]
    assert taken[0] == taken[3] == taken[6]
    assert taken[1] == taken[4]
    assert all(not taken[a] & taken[b] for a, b in ((0, 1), (1, 2), (0, 2)))
    assert all(sorted(position for position, _ in epoch) == list(range(40)) for epoch in taken)
    assert epochs[0] != epochs[3]  # in another order
    assert [set(plan.view(view, range(40))) for view in range(3)] == taken[:3]
    assert plan.view(1, range(7, 9)) == plan.view(1, range(40))[7:9]


def test_copies_of_an_image_in_an_epoch_are_its_next_views() -> None:
    """Two copies and three views: epochs take the views 0 and 1, 2 and 0, 1 and 2, and so on."""
    plan = Plan(images=20, batch_size=10, epochs=4, repeats=2, seed=5, views=3)
    expected = [{0, 1}, {2, 0}, {1, 2}, {0, 1}]
    assert [set(plan.views_of(epoch)) for epoch in range(4)] == expected
    for step in range(8):
        views, positions = plan.places(step)
        assert set(views.tolist()) == expected[step // 2]
        keys = [plan.view(int(view), range(20))[position] for view, position in zip(views, positions.tolist(), strict=True)]
        assert plan.batch(step) == keys
    assert len({*plan.batch(0), *plan.batch(1)}) == 20


def test_without_views_the_images_of_a_step_are_those_of_earlier_versions() -> None:
    """Keys that version 0.1.0 gave before there were views."""
    plan = Plan(images=7, batch_size=3, epochs=3, repeats=1, seed=5)
    assert plan.batch(0) == [(1, 1911227303), (4, 1594846158), (2, 1226804112)]
    assert plan.batch(2) == [(4, 1905602337), (2, 1895746299), (0, 587625578)]
    repeated = Plan(images=7, batch_size=3, epochs=3, repeats=3, seed=5)
    assert repeated.batch(1) == [(4, 839696011), (4, 1841118045), (4, 1471479423)]


# --- what is read is what would have been said ---------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"repeats": 2, "accumulate": 4}])
def test_kept_logits_are_those_of_the_teacher_for_the_same_views_to_16_bits(
    teacher: Path, parts: DataParts, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """11 bits of precision; at the images as they are erased in the step, each piece of the batch after the other."""
    trainer = trainer_of(parts, tmp_path, config_of(teacher, **changes))
    steps, pieces = trainer.steps, trainer.config.accumulate
    assert steps.teacher is not None
    loader, largest = trainer.loader(0), 0.0
    for step in range(2 * STEPS):
        cached = filled(trainer, step // STEPS)
        pixels, facts = next(loader)
        if step % 5:
            continue
        for piece, (some_pixels, some_facts) in enumerate(zip(pixels.chunk(pieces), facts.chunk(pieces), strict=True)):
            images, _ = steps.prepare(some_pixels, some_facts, step)
            expected, (found, _) = steps.teacher(images), steps._taught(images, step, piece)
            assert found is not None
            assert found.dtype == torch.float16
            assert torch.allclose(found.float(), expected, rtol=2**-11, atol=2e-6)
            largest = max(largest, float(expected.abs().max()))
    assert largest > 3
    assert set(cached.opened) == {0, 1}


def test_a_teacher_of_another_size_sees_the_images_of_the_student_at_its_own(parts: DataParts, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = Subnet.from_space(replace(SPACE, image_sizes=(4,), patch_size=2), SPACE.largest)
    preprocessing = replace(parts.preprocessing, network_size=4)
    save_subnet(small, tmp_path / "small", preprocessing=preprocessing, classes=parts.classes, record={})
    trainer = trainer_of(parts, tmp_path / "s", config_of(tmp_path / "small"))
    assert trainer.steps.teacher is not None
    assert trainer.steps.teacher.size == 4
    images, _ = trainer.steps.prepare(*next(trainer.loader(0)), 0)
    assert images.shape[-1] == 8
    expected, found = trainer.steps.teacher(images), filled(trainer, 0).logits(0, range(64))
    assert torch.allclose(found.float(), expected, rtol=2**-11, atol=2e-6)


def test_the_teacher_sees_each_view_once(
    teacher: Path, parts: DataParts, undisturbed: str, tmp_path: Path, asked: list[int]
) -> None:
    told: list[tuple[str, int, int]] = []
    around = Surroundings(progress=lambda work, done, total, note="": told.append((work, done, total)))
    assert trained(parts, config_of(teacher, workers=1), tmp_path / "s", around) == undisturbed
    assert sum(asked) == VIEWS * IMAGES
    assert not (tmp_path / "s" / "logits").exists()
    for view in (1, 2):
        own = [(done, total) for work, done, total in told if work == f"teacher's logits, view {view} of 2"]
        assert own == [(128, IMAGES), (256, IMAGES), (IMAGES, IMAGES)]


def test_what_is_learned_is_what_a_teacher_that_is_asked_teaches_but_for_rounding(
    teacher: Path, parts: DataParts, tmp_path: Path
) -> None:
    """One epoch: the weights are far nearer to those of the same training with the teacher asked than to untaught ones."""
    config = config_of(teacher, epochs=1)
    live = trainer_of(parts, tmp_path / "live", config)
    live.cached, live.steps.known = None, None
    untaught = trainer_of(parts, tmp_path / "untaught", config)
    untaught.cached, untaught.steps.teacher = None, None
    found = trainer_of(parts, tmp_path / "cached", config).run().network.state_dict()
    apart = [
        max(float((weight - found[name]).abs().max()) for name, weight in trainer.run().network.state_dict().items())
        for trainer in (live, untaught)
    ]
    assert 0 < 50 * apart[0] < apart[1]


# --- interruption ----------------------------------------------------------------------------------------------------


@contextmanager
def dying_as_it_fills(fatal: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What trains in the block dies as it writes its chunk `fatal`, half of it written and nothing sealed."""
    keep, kept = LogitFiles.keep, list[int]()

    def dying(self: LogitFiles, view: int, chunk: int, rows: Any) -> None:
        if len(kept) == fatal:
            with (self.folder / f"view-{view:03d}.f16").open("r+b") as file:
                file.seek(chunk * 128 * self.classes * 2)
                file.write(rows.tobytes()[:500])
            raise MemoryError("died")
        kept.append(chunk)
        keep(self, view, chunk, rows)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):  # noqa: PT012
        patch.setattr(LogitFiles, "keep", dying)
        yield


@pytest.mark.parametrize(("fatal", "kept"), [(2, 2 * 128), (CHUNKS + 1, IMAGES + 128)])
def test_a_training_that_died_as_the_teacher_spoke_goes_on_with_what_it_had_said(
    teacher: Path, parts: DataParts, undisturbed: str, tmp_path: Path, fatal: int, kept: int, asked: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with dying_as_it_fills(fatal, monkeypatch):
        trained(parts, config_of(teacher), tmp_path / "s")
    asked.clear()
    assert trained(parts, config_of(teacher), tmp_path / "s") == undisturbed
    assert sum(asked) == VIEWS * IMAGES - kept


@pytest.mark.parametrize("fatal_step", [4, 12])
def test_a_training_that_died_ends_with_the_weights_of_an_undisturbed_one(
    teacher: Path, parts: DataParts, undisturbed: str, tmp_path: Path, fatal_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dying_at(fatal_step, monkeypatch):
        trained(parts, config_of(teacher), tmp_path / "s")
    assert trained(parts, config_of(teacher), tmp_path / "s") == undisturbed


def test_a_signal_ends_the_filling_at_once_and_saves(
    teacher: Path, parts: DataParts, undisturbed: str, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = LogitFiles.keep

    def keep_then_signal(self: LogitFiles, view: int, chunk: int, rows: Any) -> None:
        keep(self, view, chunk, rows)
        if (view, chunk) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(LogitFiles, "keep", keep_then_signal)
        with pytest.raises(InterruptedRunError, match="stopped in epoch 2 of 4; run the same command again"):
            trained(parts, config_of(teacher), tmp_path / "s")
    assert sum(asked) == IMAGES + 2 * 128
    assert (tmp_path / "s" / "checkpoints" / f"step-{STEPS:09d}.safetensors").exists()
    assert trained(parts, config_of(teacher), tmp_path / "s") == undisturbed
    assert sum(asked) == VIEWS * IMAGES


def test_a_damaged_chunk_is_made_anew(
    teacher: Path, parts: DataParts, undisturbed: str, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with dying_at(2 * STEPS + 2, monkeypatch):
        trained(parts, config_of(teacher), tmp_path / "s")
    (path,) = (tmp_path / "s" / "logits").glob("*/view-000.f16")
    content = bytearray(path.read_bytes())
    content[128 * 10 * 2 + 7] ^= 64
    path.write_bytes(content)
    asked.clear()
    assert trained(parts, config_of(teacher), tmp_path / "s") == undisturbed
    assert asked == [128]


def test_a_teacher_of_other_weights_in_its_place_says_everything_anew(
    teacher: Path, parts: DataParts, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "network"
    shutil.copytree(teacher, place)
    with dying_at(STEPS + 2, monkeypatch):
        trained(parts, config_of(place), tmp_path / "s")
    shutil.rmtree(place)
    write_teacher(place, parts, seed=1)
    asked.clear()
    trained(parts, config_of(place), tmp_path / "s")
    assert sum(asked) == VIEWS * IMAGES


def test_the_folder_is_another_where_anything_else_would_be_said(teacher: Path, parts: DataParts, tmp_path: Path) -> None:
    other = write_teacher(tmp_path / "other", parts, seed=1)
    moved = shutil.copytree(teacher, tmp_path / "moved")

    def folder(config: SupernetConfig, images: DataParts = parts) -> str:
        cached = trainer_of(images, tmp_path / "s", config).cached
        assert cached is not None
        return cached.files.folder.name

    own = folder(config_of(teacher))
    same = [
        config_of(moved), config_of(teacher, epochs=9, learning_rate=0.5),
        config_of(teacher, {"views": 5, "weight": 0.1, "temperature": 3.0, "hard": True, "cache_mib": 7}),
    ]  # fmt: skip
    assert {folder(config) for config in same} == {own}
    fewer = replace(parts, train=replace(parts.train, indices=parts.train.indices[:-1]))
    brighter = replace(parts, preprocessing=replace(parts.preprocessing, mean=(0.25,)))
    others = [
        folder(config_of(other)), folder(config_of(teacher, augment={"erase": 0.4})), folder(config_of(teacher, augment={})),
        folder(config_of(teacher, amp="bfloat16")), folder(config_of(teacher), fewer), folder(config_of(teacher), brighter),
    ]  # fmt: skip
    assert len({own, *others}) == 7
    seeded = trainer_of(parts, tmp_path / "s", config_of(teacher))
    seeded.seed = 1
    assert (cached := seeded._cached_teacher()) is not None
    assert cached.files.folder.name not in {own, *others}


# --- shared ----------------------------------------------------------------------------------------------------------


def test_trainings_that_agree_share_what_was_said_and_wait_while_another_one_fills(
    teacher: Path, parts: DataParts, tmp_path: Path, asked: list[int]
) -> None:
    around, config = Surroundings(logits=tmp_path / "shared"), {"teacher": {"network": str(teacher), "views": VIEWS}}
    tune = FinetuneConfig.model_validate({"epochs": 2, "batch_size": 64, **config})
    for number, network in enumerate((SPACE.largest, SPACE.smallest)):
        torch.manual_seed(0)
        finetune(Subnet.from_space(SPACE, network), parts, tune, tmp_path / str(number), around=around)
        assert sum(asked) == VIEWS * IMAGES
    (folder,) = (tmp_path / "shared").iterdir()
    waiting = trainer_of(parts, tmp_path / "s", config_of(teacher, augment={}))
    waiting.around = around
    assert (cached := waiting._cached_teacher()) is not None
    assert cached.files.folder == folder
    stops = iter([False, True])
    with sole_worker(folder):
        assert not cached.fill(0, waiting.world, waiting.around.progress, lambda: next(stops))
    assert next(stops, None) is None
    assert cached.fill(0, waiting.world, waiting.around.progress, lambda: False)
    assert sum(asked) == VIEWS * IMAGES


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mixup": 0.8}, "single images, which mixup and cutmix mix; set mixup and cutmix to 0, or leave teacher.views out"),
        ({"cutmix": 1.0}, "single images, which mixup and cutmix mix"),
        ({"repeats": 3}, r"teacher.views=2 is less than repeats=3, .* raise it to 3 or more"),
        ({"teaching": {"views": 0}}, "greater than 0"),
    ],
)
def test_views_that_a_teacher_cannot_know_beforehand_are_refused(
    teacher: Path, parts: DataParts, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        config_of(teacher, **changes)
    if "teaching" not in changes:
        unchecked = config_of(teacher).model_copy(update=changes)
        with pytest.raises(RecipeError, match=words):
            plan_for(parts, unchecked, 0)


def test_more_logits_than_the_limit_are_refused_before_anything_is_written(
    teacher: Path, parts: DataParts, tmp_path: Path
) -> None:
    """360 images in 10 classes of 2 bytes: 145 views fit into a MiB."""
    config = config_of(teacher, {"views": 146, "cache_mib": 1}, epochs=200)
    line = (
        r"146 rows of 10 logits for each of 360 images, 1 MiB, and teacher.cache_mib is 1; lower views to 145 or raise cache_mib"
    )
    with pytest.raises(RecipeError, match=line):
        trainer_of(parts, tmp_path / "s", config)
    assert not (tmp_path / "s").exists()
    plan_for(parts, config_of(teacher, {"views": 145, "cache_mib": 1}, epochs=200), 0)
    plan_for(parts, config_of(teacher, {"views": 146, "cache_mib": 1}, epochs=145), 0)  # the last is never taken


def test_trainings_from_before_there_were_views_are_gone_on_with() -> None:
    before = {"network": "timm:test_vit", "weight": 0.5, "temperature": 1.0, "hard": False}
    teacher = TeacherConfig(network="timm:test_vit")
    assert teacher.identity == teacher.model_dump(mode="json") == before
    assert TrainConfig(teacher=teacher).identity["teacher"] == before
    parent = {"epochs": 10, "learning_rate": None, "teaches": True, "weight": 0.5, "temperature": 1.0}
    assert ParentConfig().model_dump(mode="json") == parent
    seen = teacher.model_copy(update={"views": 3, "cache_mib": 9})
    assert seen.identity == {**before, "views": 3}  # how large files may be changes no weights
    assert seen.model_dump(mode="json") == {**before, "views": 3, "cache_mib": 9}


def test_logits_that_16_bits_cannot_hold_are_refused(parts: DataParts, tmp_path: Path) -> None:
    loud = write_teacher(tmp_path / "loud", parts, size=1e6)
    with pytest.raises(TrainingError, match=r"logits up to .* for images range\(0, 128\), which 16 bits cannot hold; leave"):
        trained(parts, config_of(loud), tmp_path / "s")


def test_a_rehearsal_tells_what_the_teacher_takes_and_writes_nothing(
    teacher: Path, parts: DataParts, tmp_path: Path, asked: list[int]
) -> None:
    trainer = trainer_of(parts, tmp_path / "s", config_of(teacher, {"views": 3}, epochs=2))
    price = rehearse(trainer, tmp_path / "s")
    assert price.logits_bytes == 2 * IMAGES * 10 * 2  # two epochs take two of three views
    assert price.hours == pytest.approx(price.seconds_per_step * 2 * STEPS / 3600 + price.teacher_hours)
    assert price.teacher_hours > 0
    assert asked == [128, 128]
    assert price.disk_bytes >= 3 * price.checkpoint_bytes + price.logits_bytes
    assert not (tmp_path / "s").exists()


def test_numbers_of_views_are_read_from_the_files(teacher: Path, parts: DataParts, tmp_path: Path) -> None:
    """A row that is changed on the disk is what is taught: nothing is kept beside the files."""
    trainer = trainer_of(parts, tmp_path, config_of(teacher))
    cached = filled(trainer, 0)
    view, position = (int(column[3]) for column in trainer.plan.places(0))
    rows = np.memmap(cached.files.folder / f"view-{view:03d}.f16", "<f2", "r+", shape=(IMAGES, 10))
    rows[position] = range(10)
    rows.flush()
    assert cached.logits(0, [3]).tolist() == [list(map(float, range(10)))]
    assert cached.logits(0, [4]).tolist() != [list(map(float, range(10)))]
