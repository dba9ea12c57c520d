"""What a dry run says beside its table: who else kept the machine busy, what a limit is here, and how a run is made shorter."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from autoformer.cli.chain import price
from autoformer.cli.chain.limits import idle_line, limit_words, shares_line, uncertain_line
from autoformer.cli.chain.price import OtherPrograms, StepPrice, shorter_line
from autoformer.cli.chain.recipe import load_recipe
from autoformer.cost import Budget
from autoformer.profiling.measuring.sensors import Reading
from tests.support.commands import command
from tests.support.short_runs import QUICKSTART
from tests.support.tables import fitted


def prices(**seconds: float) -> list[StepPrice]:
    return [StepPrice(step=step, seconds=each, measured="") for step, each in seconds.items()]


def test_a_quarter_of_the_epochs_makes_trainings_a_quarter_as_long_and_nothing_else() -> None:
    said = shorter_line(prices(train=4000, search=100, race=2000, export=20), 200)
    assert said == "--epochs 50 instead of 200 makes every training shorter: about 27 min 0 s in all, for less accuracy"


def test_nothing_is_said_of_shorter_trainings_where_they_are_short_or_have_few_epochs() -> None:
    assert shorter_line(prices(train=300, race=200, search=9000), 200) == ""
    assert shorter_line(prices(train=9000), 7) == ""


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[Reading]:
    """What the machine's sensors say, one reading after the other; no process of this one has ended."""
    readings = [
        Reading(seconds=0.0, busy_cpu_s=100.0, own_cpu_s=10.0),
        Reading(seconds=10.0, busy_cpu_s=120.0, own_cpu_s=16.0),
    ]

    class Scripted:
        def read(self, seconds: float) -> Reading:
            return readings.pop(0)

    monkeypatch.setattr(price, "MachineSensors", Scripted)
    monkeypatch.setattr(price, "usable_cores", lambda: 2)
    return readings


def test_the_cores_of_other_programs_are_those_of_all_less_those_of_this_one(scripted: list[Reading]) -> None:
    others = OtherPrograms()
    cores = others.cores()
    assert cores == pytest.approx((20 - 6) / 10)
    assert others.line(cores).startswith("other programs kept 1.4 of 2 cores busy while this was measured: ")


@pytest.mark.parametrize("cores", [None, 0.0, 0.2])
def test_a_quiet_machine_and_one_that_does_not_say_get_no_line(cores: float | None) -> None:
    assert OtherPrograms.line(cores) == ""


def test_a_limit_far_below_the_smallest_network_ends_a_dry_run_with_what_there_is(tmp_path: Path) -> None:
    answer = command("run", QUICKSTART, "--out", tmp_path / "out", "--max-latency", "0.00001ms", "--dry-run", "--quiet")
    assert "max_latency=0.00001ms cannot be met: this recipe has networks from 0." in answer.error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_looks_at_networks_out_of_timm_are_priced_by_one_of_them(tmp_path: Path) -> None:
    settings = ("race.rivals=[timm:resnet18@scratch]", "finetune.epochs=6")
    words = [word for setting in settings for word in ("--set", setting)]
    found = command("run", QUICKSTART, "--out", tmp_path / "out", *words, "--dry-run", "--json", "--quiet").json
    (race,) = [step for step in found["steps"] if step["step"] == "race"]
    look_s = float(re.search(r"; 2 looks at networks out of timm, ([0-9.]+) s each; ", race["measured"])[1])  # type: ignore[index]
    assert 0 < 2 * look_s < race["seconds"]


def test_a_limit_in_percent_is_said_in_milliseconds() -> None:
    assert limit_words("60%", 0.5, 3.0) == "60% is about 1.8 ms; networks from 0.5 ms to 3 ms"
    assert limit_words("2ms", 0.5, 3.0) == "networks from 0.5 ms to 3 ms"


@pytest.mark.slow
def test_a_latency_that_no_network_can_have_is_refused_before_a_table_is_measured(tmp_path: Path) -> None:
    answer = command("run", QUICKSTART, "--out", tmp_path / "out", "--max-latency", "0.0001ms")
    assert answer.code == 2, answer.err
    assert "max_latency=0.0001ms cannot be met: this recipe's smallest network takes 0." in answer.err
    assert "measure latency" not in answer.err


def test_limits_in_percent_are_told_in_units_when_a_run_knows_them() -> None:
    recipe = load_recipe(QUICKSTART, ["budget.max_params=2M", "budget.max_flops=50%", "budget.max_latency=60%"])
    stated = Budget(max_params=2_000_000, max_flops=1_310_000_000, max_latency_ms=1.92)
    assert shares_line(recipe, stated) == "limits of the largest network: max_flops 50% is 1.31G, max_latency 60% is 1.92 ms" + (
        "; a machine is not as fast every day: for a product give milliseconds"
    )
    assert (
        shares_line(load_recipe(QUICKSTART, ["budget.max_params=2M", "budget.max_flops=1G", "budget.max_latency=2ms"]), stated)
        == ""
    )


def test_a_limit_above_all_networks_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    answer = command("run", QUICKSTART, "--out", tmp_path / "out", "--max-latency", "160%", "--dry-run")
    assert answer.code == 0, answer.err
    said = "max_latency 160% is more than the largest network has and keeps none out; stop with Ctrl-C if less was meant"
    assert answer.err.index(said) < answer.err.index("measure")
    usual = load_recipe(QUICKSTART, ["budget.max_params=100%", "budget.max_flops=5G", "budget.max_latency=60%"])
    assert idle_line(usual.budget) == ""


@pytest.mark.parametrize(
    ("verdict", "remedy"),
    [("VALID", "of more than 8 networks (--set profile.networks=16)"), ("UNSTABLE", "measured on a quiet machine")],
)
def test_a_table_that_leaves_much_of_a_limit_unused_says_what_helps(verdict: str, remedy: str) -> None:
    recipe = load_recipe(QUICKSTART, ["budget.max_latency=60%"])
    table = fitted(lambda index, flops: flops * (1 + index % 2))  # half of them take twice as long as FLOPs say
    table = replace(table, networks=(replace(table.networks[0], verdict=verdict), *table.networks[1:]))
    line = uncertain_line(Budget(max_latency_ms=1.5), recipe, table)
    assert line.startswith(f"latency table: off by up to {100 * table.margin:.0f} %, so only networks below 1.5 ms are searched")
    assert line.endswith(f"; with a table {remedy}, under another --out, more of it is used")
