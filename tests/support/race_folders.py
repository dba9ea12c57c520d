"""A search of a supernet that takes seconds, questions of races about it, and a keeper that measures nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoformer.architecture import Architecture
from autoformer.cli.chain import race as chain
from autoformer.cli.chain.entrants import Field, Networks, Selection
from autoformer.cli.chain.legs import Question
from autoformer.cli.chain.race import run_race
from autoformer.cost import Budget
from autoformer.data.loading import load_parts, parts_of_record
from autoformer.data.parts import DataConfig
from autoformer.errors import ExportError
from autoformer.files import read_json
from autoformer.networks.folders import save_supernet
from autoformer.networks.supernet import Supernet
from autoformer.profiling.profiles.config import ProfileConfig
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.race.record import RaceRecord
from autoformer.profiling.race.timing import Ready, Timekeeper
from autoformer.profiling.tables.limit import Timing
from autoformer.space import SearchSpace
from autoformer.tensors import read_tensors, tensors_digest
from autoformer.training.config import FinetuneConfig
from autoformer.training.trainer import Surroundings
from tests.support.commands import command
from tests.support.latency_loops import timing
from tests.support.searches import words
from tests.support.trainings import SPACE

RIVAL = "timm:test_resnet@scratch"
DATA = DataConfig(source="digits", test_fraction=0.7)  # few images to train on
FINETUNE = FinetuneConfig(epochs=4, batch_size=64, learning_rate=2e-3, warmup_epochs=1)


def write_search(folder: Path) -> Path:
    """A supernet of fresh weights for the digits, `super`, and a search of it, `search`."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_supernet(Supernet(SPACE), folder / "super", source="nothing")
    record = read_json(folder / "super" / "supernet.json")
    (folder / "super" / "supernet.json").write_text(json.dumps({**record, "data": load_parts(DATA).record}))
    answer = command("search", "--supernet", folder / "super", "--out", folder / "search", "--quiet", *words())
    assert answer.code == 0, answer.err
    return folder


def question(folder: Path, limits: Budget | None = None, race: RaceConfig | None = None, **changes: Any) -> Question:
    """A race of three networks of the search and one rival, a first rung with two rates, and four epochs in all."""
    trained = read_json(folder / "super" / "supernet.json", "data")["data"]
    asked = Question(
        supernet=folder / "super", search=folder / "search", parts=parts_of_record(trained), limits=limits or Budget(),
        race=race or RaceConfig(finalists=2, homogeneous=1, rivals=(RIVAL,), cost=2.5), finetune=FINETUNE,
        profile=ProfileConfig(seconds=0.05),
    )  # fmt: skip
    return replace(asked, **changes)


def write_race(out: Path, searched: Path) -> Path:
    """That race, finished."""
    with pytest.MonkeyPatch.context() as patch:
        Pretended().install(patch)
        ran(question(searched), out)
    return out


def ran(asked: Question, out: Path) -> RaceRecord:
    return run_race(asked, out, Surroundings())


class Pretended:
    """Stands for all measuring: a network takes `latency_ms` of its name, and one in `unexportable` cannot be exported."""

    def __init__(self, latency_ms: Callable[[str], float] = lambda name: 1.0, unexportable: Sequence[str] = ()) -> None:
        self.latency_ms, self.unexportable = latency_ms, unexportable
        self.together: list[list[str]] = []

    def install(self, patch: pytest.MonkeyPatch) -> Pretended:
        def ready(name: str) -> Ready:
            if name in self.unexportable:
                raise ExportError(f"{name} has an operator that ONNX lacks")
            return Ready(params=1, open=lambda: pytest.fail(f"{name} was opened"))

        def of_space(keeper: Timekeeper, space: SearchSpace, architecture: Architecture) -> Ready:
            return ready(architecture.slug)

        def of_network(keeper: Timekeeper, name: str, network: object, image_shape: object) -> Ready:
            return ready(name)

        def together(keeper: Timekeeper, networks: Mapping[str, Ready], without: object = ()) -> dict[str, Timing]:
            self.together.append(list(networks))
            return {name: timing(self.latency_ms(name)) for name in networks}

        for name, method in (("of_space", of_space), ("of_network", of_network), ("together", together)):
            patch.setattr(Timekeeper, name, method)
        patch.setattr(Timekeeper, "alone", lambda keeper, made: self.latency_ms("alone"))
        return self


def field_of(asked: Question, tmp_path: Path, most: int = 9) -> Field:
    """Who starts in a race of which at most so many can."""
    keeper, unmeasured = chain._timekeeper(asked, tmp_path, Surroundings())
    networks = Networks(supernet=asked.supernet, parts=asked.parts)
    return Selection(
        networks=networks, search=asked.search, limits=asked.limits, config=asked.race, table=None, keeper=keeper,
        unmeasured=unmeasured,
    ).field(most)  # fmt: skip


@dataclass(frozen=True)
class Untimed:
    """What of a race's folder has to be the same whenever it ran, and however often it was interrupted."""

    record: Mapping[str, Any]
    weights: str

    @classmethod
    def of(cls, out: Path, winner: Path | None = None) -> Untimed:
        record = RaceRecord.load(out)
        values = read_json(out / "race.json")
        for name in ("seconds", "own_seconds", "extra_seconds", "content_sha256"):
            values.pop(name, None)
        for one in values["entrants"]:
            for part in one["trained"]:
                del part["seconds"]
        last = out / "entrants" / record.winner / f"x{record.delivered.rate:g}" / "network"
        return cls(values, tensors_digest(read_tensors((winner or last) / "model.safetensors")))


def words_of(epochs: int = 4) -> list[str]:
    """The options of `autoformer race` that ask what `question` does."""
    settings = (
        "finalists=2", "homogeneous=1", "cost=2.5", f"finetune.epochs={epochs}", "finetune.batch_size=64",
        "finetune.learning_rate=0.002", "finetune.warmup_epochs=1", "profile.seconds=0.05",
    )  # fmt: skip
    return ["--rival", RIVAL, *(word for setting in settings for word in ("--set", setting))]
