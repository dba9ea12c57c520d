"""Who starts in a race where some break a limit, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoformer.cli.chain.race import plan_lines, race_schedule
from autoformer.cost import Budget
from autoformer.profiling.race.config import RaceConfig
from tests.support.race_folders import RIVAL, Pretended, field_of, question


def test_a_spare_stands_in_for_one_of_its_own_kind(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rivals: where the first is too slow the second starts, and not another network of the search."""
    slow = {"test-resnet": 2.0}
    Pretended(lambda name: slow.get(name, 0.5)).install(monkeypatch)
    asked = question(
        searched, Budget(max_latency_ms=1.0), RaceConfig(finalists=2, homogeneous=1, rivals=(RIVAL, "timm:test_vit@scratch"))
    )
    found = field_of(asked, tmp_path, most=4)
    kinds = [one.kind for one in found.entrants]
    assert sorted(kinds) == ["finalist", "homogeneous", "most expensive", "rival"]
    lines = list(plan_lines(found, race_schedule(4, asked.finetune, asked.race), asked.limits, None))
    assert not [line for line in lines if line.startswith("no network out of timm races")]


def test_that_no_rival_races_is_said_with_the_reason(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pretended(lambda name: 2.0 if name == "test-resnet" else 0.5).install(monkeypatch)
    asked = question(searched, Budget(max_latency_ms=1.0))
    found = field_of(asked, tmp_path)
    lines = list(plan_lines(found, race_schedule(4, asked.finetune, asked.race), asked.limits, None))
    assert (
        "no network out of timm races: none that was tried can start; so how good one is under these limits stays open"
    ) in lines
