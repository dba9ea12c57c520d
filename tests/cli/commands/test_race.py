"""`autoformer race`: its words, its limits, and what it prints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoformer.cli.commands.race import limits_of
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, count_flops, count_params
from autoformer.errors import BudgetError, MeasurementError
from autoformer.files import read_json
from autoformer.parsing import BudgetConfig
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.race.record import RaceRecord
from autoformer.profiling.tables.table import LatencyTable
from autoformer.search.record import SearchRecord
from autoformer.space import SearchSpace
from tests.support.commands import Answer, command
from tests.support.race_folders import words_of
from tests.support.small_spaces import designed


def race(searched: Path, out: Path, *words: object) -> Answer:
    return command("race", "--supernet", searched / "super", "--search", searched / "search", "--out", out, *words)


def test_help_shows_the_options_and_an_example() -> None:
    answer = command("race", "--help")
    assert answer.code == 0
    for word in (
        "--supernet",
        "--search",
        "--rival",
        "--max-latency",
        "--latency-table",
        "--workers",
        "autoformer race --supernet",
    ):
        assert word in answer.out


def test_options_ask_the_question_that_they_say_and_json_has_the_record_and_the_folder(
    searched: Path, finished_race: Path
) -> None:
    """The race is finished: other settings than those it was made with would be refused as another race."""
    answer = race(searched, finished_race, *words_of(), "--json")
    assert answer.code == 0, answer.err
    stored = {key: value for key, value in read_json(finished_race / "race.json").items() if key != "content_sha256"}
    assert answer.json == stored | {"folder": str(finished_race / "winner")}
    assert {"winner", "runner_up", "tied", "sentence", "entrants", "refused", "cost", "extra_seconds", "schedule"} <= set(stored)
    assert (finished_race / "winner" / "model.safetensors").exists()


def test_people_see_everyone_the_refused_and_the_decision(searched: Path, finished_race: Path) -> None:
    answer = race(searched, finished_race, *words_of(), "--quiet")
    assert answer.code == 0, answer.err
    record, shown = RaceRecord.load(finished_race), " ".join(answer.out.split())
    for one in record.entrants:
        assert one.entrant.name in shown
    assert "Did not start" in shown
    assert "4 start" in shown
    assert " ".join(record.sentence().split()) in shown
    assert f"The race cost {record.cost:.2g} finetunes beyond the delivered network's own: {record.extra_epochs} epochs" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rival", "timm:resnet180"), "timm has no model 'resnet180'"),
        (("--rival", "resnet18"), "rival 'resnet18' is no network of timm"),
        (("--set", "finetune.patience=3"), "finetune.patience"),
        (("--set", "finalists=0"), "finalists"),
        (("--set", "finalist=2"), "did you mean 'race.finalists'"),
        (("--set", "learning_rates=[1, 1]"), "must be positive and differ"),
        (("--max-latency", "1ms"), "latency"),
        (("--workers", "many"), "--workers"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(searched: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    answer = race(searched, tmp_path / "race", *words)
    assert said in answer.error
    assert not (tmp_path / "race" / "entrants").exists()


def test_another_race_in_the_folder_is_refused(searched: Path, finished_race: Path) -> None:
    assert "holds another run: its finetune.epochs is " in race(searched, finished_race, *words_of(epochs=5)).error


# --- limits --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def record(searched: Path) -> SearchRecord:
    return SearchRecord.load(searched / "search")


def table_of(space: SearchSpace, device: str = "a test") -> LatencyTable:
    """As if measured: 0.05 ms and 50 ms per GFLOP."""
    means = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device=device)
    measured = [(network, 0.05 + 50 * count_flops(network, space) / 1e9) for network in designed(space, 6)]
    return LatencyTable.fit(space, means, measured, device=DeviceFacts.collect())


def under_latency(record: SearchRecord, table: LatencyTable) -> SearchRecord:
    """A search under 2 ms, with a margin of 5 %, and 50,000 parameters."""
    budget = Budget(max_params=5e4, max_latency_ms=2.0)
    return replace(record, budget=budget, latency_margin=0.05, measurement_conditions=table.measurement_conditions)


def test_limits_are_those_of_the_search_as_stated_before_the_margin(record: SearchRecord) -> None:
    assert limits_of(record, BudgetConfig(), None) == record.budget
    table = table_of(record.space)
    found = limits_of(under_latency(record, table), BudgetConfig(), table)
    assert found.max_latency_ms == pytest.approx(2.1)
    assert found.max_params == 5e4


def test_a_limit_on_latency_means_what_it_meant_in_the_search(record: SearchRecord) -> None:
    searched = under_latency(record, table_of(record.space))
    elsewhere = table_of(record.space, device="another device")
    with pytest.raises(BudgetError, match=r"limit is of p50, .*a test, the latency table of .*another device; give the table of"):
        limits_of(searched, BudgetConfig(), elsewhere)
    assert limits_of(searched, BudgetConfig(max_latency="1ms"), elsewhere).max_latency_ms == 1.0
    other = table_of(replace(record.space, depths=(1,)))
    with pytest.raises(MeasurementError, match="another space: depths"):
        limits_of(searched, BudgetConfig(), other)


def test_a_search_under_a_latency_limit_needs_its_table(record: SearchRecord) -> None:
    with pytest.raises(BudgetError, match="give its --latency-table"):
        limits_of(replace(record, budget=Budget(max_latency_ms=2.0)), BudgetConfig(), None)


def test_a_limit_that_is_given_replaces_that_of_the_search_and_the_others_stay(record: SearchRecord) -> None:
    """A percentage is of the largest network; a latency needs a table to be told."""
    searched = replace(record, budget=Budget(max_flops=7e6, max_params=9.0, min_params=2.0))
    half = pytest.approx(0.5 * count_params(record.space.largest, record.space), abs=1)
    found = limits_of(searched, BudgetConfig(max_params="50%"), None)
    assert found.to_dict() == {"max_flops": 7e6, "max_params": half, "min_params": 2.0}
    with pytest.raises(BudgetError):
        limits_of(record, BudgetConfig(max_latency="1ms"), None)


def test_an_unfinished_race_and_a_network_of_timm_are_described_as_what_they_are(finished_race: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "entrants.json").write_bytes((finished_race / "entrants.json").read_bytes())
    assert "unfinished race; run it again" in command("describe", tmp_path / "half").error
    network = finished_race / "entrants" / "test-resnet" / f"x{RaceRecord.load(finished_race)['test-resnet'].rate:g}" / "network"
    if network.joinpath("config.json").exists():
        answer = command("describe", network, "--json")
        assert answer.json["name"] == "test_resnet"
        assert answer.json["input_size"] == [1, 32, 32]


def test_a_race_none_of_whose_rivals_is_wanted_takes_no_others(searched: Path, tmp_path: Path) -> None:
    both = race(searched, tmp_path / "r", "--rival", "none", "--rival", "timm:resnet18@scratch")
    assert "--rival none goes with no other" in both.err
