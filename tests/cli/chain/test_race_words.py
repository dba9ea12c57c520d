"""What a race says before anything is trained: who starts, how far, and at which size a rival takes the images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from autoformer.cli.chain.entrants import RESERVE, Field, Networks, Selection
from autoformer.cli.chain.race import plan_lines
from autoformer.cost import Budget
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.race.record import RaceRecord, Refused
from autoformer.profiling.race.schedule import Rung, Schedule
from tests.support.race_folders import RIVAL, question


def test_a_plan_says_who_starts_and_how_far_they_are_trained(finished_race: Path) -> None:
    record = RaceRecord.load(finished_race)
    started = Field(entrants=tuple(one.entrant for one in record.entrants), refused=())
    names, rungs = plan_lines(started, record.schedule, record.limits, None)
    assert names == (
        f"4 networks race inside {record.limits}: finalist-1, test-resnet (from scratch, 32 px), homogeneous-1, most-expensive"
    )
    assert rungs == (
        "each is finetuned for 1 epoch, with 1 and again with 4 times the learning rate; the best 2 go on to the end, epoch 4; "
        "beyond the winner's own finetune that is at most 10 epochs, 2.5 times as many as it has"
    )
    longer = Schedule((Rung(5, 1), Rung(3, 3), Rung(2, 9)), 20, (1.0,))
    assert list(plan_lines(started, longer, record.limits, None))[-1].startswith(
        "each is finetuned for 1 epoch; the best 3 go on to epoch 3, the best 2 to epoch 9, the best one, and the second "
        "where they are tied or it started from nothing, to the end, epoch 20; beyond"
    )
    whole = Schedule((Rung(2, 3),), 3, (1.0,))
    assert list(plan_lines(started, whole, record.limits, None))[-1].startswith("each is finetuned for 3 epochs; beyond")
    slow = Refused(name="slow", kind="rival", network="timm:vgg16", reason="7 ms against the limit of 1 ms")
    spare = Refused(name="finalist-2", kind="finalist", network="e24", reason=f"{RESERVE}: no more than 1 start")
    first, alone = plan_lines(Field(entrants=started.entrants[:1], refused=(slow,)), Schedule((), 1, (1.0,)), Budget(), None)
    assert first == "slow (timm:vgg16) does not start: 7 ms against the limit of 1 ms"
    assert alone == "no race: 1 epoch, one network alone keeps the limits; finalist-1 is finetuned"
    (short,) = plan_lines(Field(entrants=started.entrants[:1], refused=(spare,)), Schedule((), 1, (1.0,)), Budget(), None)
    assert short == "no race: 1 epoch, they leave no room for a second network; finalist-1 is finetuned"


@pytest.mark.parametrize(("sizes", "said"), [((8,), "take 8 px"), ((4, 8), "take 8 px at most")])
def test_a_rival_at_another_size_is_told_what_the_networks_of_the_search_take(
    searched: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], said: str
) -> None:
    asked = question(searched)
    networks = Networks(supernet=asked.supernet, parts=asked.parts)
    monkeypatch.setattr(Networks, "own", SimpleNamespace(space=SimpleNamespace(image_sizes=sizes)))
    selection = Selection(
        networks=networks, search=asked.search, limits=Budget(), config=RaceConfig(rivals=(RIVAL,)), table=None, keeper=None
    )
    selection.looked_at = {}
    rival = selection._rivals()[0].make()
    assert rival.note == f"at 32 px, the search's networks {said}"
