"""A kit whose table is of a tail measures until the runs carry it; and its program takes no impossible numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoformer.architecture import Architecture
from autoformer.cli.board.kit_program import main
from autoformer.profiling.kits.kit import StoppingRule
from autoformer.profiling.kits.measuring import RULE_MET, head_of, instances_of, measure_setting
from autoformer.profiling.kits.rows import Rows, Setting
from tests.support.kits import FACTS, ScriptedRuntime, small_kit


def still(architecture: Architecture, build: int, visit: int) -> float:
    return 1.0 + architecture.depth


def test_visits_of_a_kit_for_a_tail_are_long_enough_for_it(tmp_path: Path) -> None:
    rule = StoppingRule(min_rounds=6, max_rounds=20, min_runs=20)
    # 662 runs carry a p99, 64 a p90; 20 rounds of 34 make 680, and 20 of 20 are more than 64 already
    assert [small_kit(tmp_path / name, rule=rule, statistic=name).rule.min_runs for name in ("p50", "p90", "p99")] == [20, 20, 34]


def test_rounds_go_on_until_every_network_has_the_runs_of_the_statistic(tmp_path: Path) -> None:
    rule = StoppingRule(min_rounds=6, max_rounds=20, max_interval=0.5, seconds=0.01, min_runs=5)
    kit = small_kit(tmp_path / "kit", rule=rule, statistic="p90")
    runtime = ScriptedRuntime(still)  # five runs a visit, all alike
    rows = Rows.open(tmp_path / "rows.jsonl", head_of("digest", runtime, FACTS))
    assert measure_setting(kit, runtime, Setting("fp32", 1), rows) == RULE_MET
    assert len(runtime.visited) == 13 * len(instances_of(kit))  # 13 times 5 are the first 64


@pytest.mark.parametrize("words", [("--threads", "0"), ("--threads", "-1"), ("--batch", "0"), ("--threads", "two")])
def test_the_program_of_a_kit_takes_no_impossible_number(
    words: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--kit", str(tmp_path), "measure", *words])
    assert stopped.value.code == 2
    assert f"argument {words[0]}: expected a whole number from 1" in capsys.readouterr().err
