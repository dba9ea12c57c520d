"""A kit measured on a device: rounds in both orders, when they stop, and what a crash costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoformer.architecture import Architecture
from autoformer.cost import count_flops
from autoformer.errors import CheckpointError, MeasurementError
from autoformer.profiling.kits.kit import Kit
from autoformer.profiling.kits.measuring import (
    ROUNDS_OUT,
    RULE_MET,
    head_of,
    instances_of,
    measure_setting,
    settings_of,
    widest_interval,
)
from autoformer.profiling.kits.rows import Rows, Setting
from tests.support.kits import FACTS, SPACE, ScriptedRuntime, small_kit

SETTING = Setting("fp32", 1)


def steady(architecture: Architecture, build: int, visit: int) -> float:
    return 1 + 50 * count_flops(architecture, SPACE) / 1e9


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return small_kit(tmp_path_factory.mktemp("kits") / "kit")


def rows(folder: Path, runtime: ScriptedRuntime) -> Rows:
    return Rows.open(folder / "rows.jsonl", head_of("a digest", runtime, FACTS))


def test_rounds_go_in_one_order_and_then_in_the_other(kit: Kit, tmp_path: Path) -> None:
    runtime = ScriptedRuntime(steady)
    assert measure_setting(kit, runtime, SETTING, rows(tmp_path, runtime)) == RULE_MET
    names = [instance.key for instance in instances_of(kit)]
    assert len(names) == 7  # four networks, three of them built twice
    assert names[4:] == [(name, 1) for name, build in names if build == 0 and (name, 1) in names]
    assert runtime.prepared == names
    assert runtime.visited == (names + names[::-1]) * 3  # six rounds, the fewest


def test_it_stops_when_every_median_is_known_and_not_before(kit: Kit, tmp_path: Path) -> None:
    # Of eight rounds the interval reaches from the first to the eighth but one: two slow ones stay in it.
    def unsure(architecture: Architecture, build: int, visit: int) -> float:
        shaken = architecture == kit.networks[1].architecture and visit < 2
        return steady(architecture, build, visit) * (1.1 if shaken else 1.0)

    runtime = ScriptedRuntime(unsure)
    assert measure_setting(kit, runtime, SETTING, rows(tmp_path, runtime)) == ROUNDS_OUT
    assert len(runtime.visited) == 7 * kit.rule.max_rounds


def test_drift_that_befalls_all_networks_alike_keeps_no_rule_from_being_met(kit: Kit, tmp_path: Path) -> None:
    def drifting(architecture: Architecture, build: int, visit: int) -> float:
        return steady(architecture, build, visit) * (1 + 0.1 * visit)

    runtime = ScriptedRuntime(drifting)
    assert measure_setting(kit, runtime, SETTING, rows(tmp_path, runtime)) == RULE_MET
    assert len(runtime.visited) == 7 * kit.rule.min_rounds


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    others = [[1.0] * 9 for _ in range(3)]
    own = [1.00, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08]  # of nine the 2nd and the 8th, around the 5th
    assert widest_interval([own, *others]) == pytest.approx((1.07 - 1.01) / 1.04, rel=1e-9)
    assert widest_interval([[1.0] * 5, [2.0] * 5]) == float("inf")


def test_a_stopped_measurement_goes_on_with_the_next_visit(kit: Kit, tmp_path: Path) -> None:
    whole = ScriptedRuntime(steady)
    (tmp_path / "whole").mkdir()
    measure_setting(kit, whole, SETTING, rows(tmp_path / "whole", whole))
    stopped = ScriptedRuntime(steady, fails_at=17)
    with pytest.raises(KeyboardInterrupt):
        measure_setting(kit, stopped, SETTING, rows(tmp_path, stopped))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes() + b'{"row":"visit","round":2,"netw')  # the device went down while it wrote
    again = ScriptedRuntime(steady)
    held = rows(tmp_path, again)
    assert measure_setting(kit, again, SETTING, held) == RULE_MET
    assert stopped.visited + again.visited == whole.visited
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_rows_of_another_kit_device_or_version_are_not_mixed_in(kit: Kit, tmp_path: Path) -> None:
    runtime = ScriptedRuntime(steady)
    rows(tmp_path, runtime)
    with pytest.raises(MeasurementError, match="measured with another kit"):
        Rows.open(tmp_path / "rows.jsonl", head_of("another digest", runtime, FACTS))
    with pytest.raises(MeasurementError, match=r"another facts .*10\.3\.0.*now.*10\.7\.0"):
        rows(tmp_path, ScriptedRuntime(steady, facts={"tensorrt": "10.7.0"}))


def test_a_line_damaged_in_the_middle_is_no_torn_end(kit: Kit, tmp_path: Path) -> None:
    runtime = ScriptedRuntime(steady)
    measure_setting(kit, runtime, SETTING, rows(tmp_path, runtime))
    path = tmp_path / "rows.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"{half\n", *lines[4:]]))
    with pytest.raises(CheckpointError, match=r"line 4 of .* is damaged .* move the file away"):
        rows(tmp_path, runtime)


def test_what_the_kit_does_not_hold_is_named(kit: Kit) -> None:
    assert list(settings_of(kit, [], [])) == [SETTING]
    with pytest.raises(MeasurementError, match="no precision int8, only fp32"):
        list(settings_of(kit, ["int8"], []))
    with pytest.raises(MeasurementError, match="no batch 4, only 1"):
        list(settings_of(kit, [], [4]))
