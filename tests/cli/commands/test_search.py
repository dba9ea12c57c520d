"""`autoformer search`: the table before it, its record, and other budgets answered from stored evaluations."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, ExactCosts, count_flops, count_params
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.errors import BudgetError, CheckpointError
from autoformer.files import read_json
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import device_name
from autoformer.profiling.tables.design import designed_architectures
from autoformer.profiling.tables.table import LatencyTable as Table
from autoformer.search.answer import StoredSearch
from autoformer.search.record import SearchRecord
from autoformer.search.space_table import SpaceTable
from autoformer.space import SearchSpace
from tests.support.commands import command
from tests.support.searches import SPACE, supernet, words

__all__ = ["supernet"]  # fixtures


@pytest.fixture(scope="module")
def searched(supernet: Path, latency_table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a search under all three limits, and what it printed."""
    out = tmp_path_factory.mktemp("search") / "s"
    answer = command(
        "search", "--supernet", supernet, "--out", out, "--max-params", "70%", "--max-flops", "70%", "--max-latency", "80%",
        "--latency-table", latency_table, "--quiet", *words(),
    )  # fmt: skip
    assert answer.code == 0, answer.err
    return out, answer.out


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / "search.json")
    return found


# --- the space ---------------------------------------------------------------------------------------------------


def test_the_table_of_a_space_has_its_ends_and_a_median_that_halves_it() -> None:
    table = SpaceTable.of(SPACE, ExactCosts(SPACE), Budget())
    flops = table.costs["flops"]
    assert (flops.smallest, flops.largest) == (count_flops(SPACE.smallest, SPACE), count_flops(SPACE.largest, SPACE))
    assert table.costs["params"].smallest == count_params(SPACE.smallest, SPACE)
    half = SpaceTable.of(SPACE, ExactCosts(SPACE), Budget(max_flops=flops.median))
    assert half.share == pytest.approx(0.5, abs=0.01)  # some networks cost the same
    assert half.exact_share == pytest.approx(0.5, abs=4 * (0.25 / table.draws) ** 0.5)
    assert (table.share, table.high) == (1, 1)
    assert table.exact_share == pytest.approx(1)


def test_the_share_inside_a_budget_is_that_of_the_enumerated_space_and_its_interval_holds_it() -> None:
    space = SearchSpace(
        name="small", embed_dims=(16, 24), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), head_dim=8, image_sizes=(8,),
        patch_size=4, num_classes=3,
    )  # fmt: skip
    networks = [
        (Architecture(embed_dim=width, num_heads=heads, mlp_ratio=ratios), 1 / (2 * 2 * 4**depth))
        for width in space.embed_dims for depth in space.depths
        for heads in itertools.product(space.num_heads, repeat=depth)
        for ratios in itertools.product(space.mlp_ratios, repeat=depth)
    ]  # fmt: skip
    assert sum(share for _, share in networks) == pytest.approx(1)
    for quantile in (0.1, 0.5, 0.9):
        limit = sorted(count_flops(network, space) for network, _ in networks)[int(quantile * len(networks))]
        truth = sum(share for network, share in networks if count_flops(network, space) <= limit)
        table = SpaceTable.of(space, ExactCosts(space), Budget(max_flops=limit))
        assert 0 < truth < 1
        assert table.exact_share == pytest.approx(truth)
        assert table.low <= truth <= table.high


def test_the_space_is_shown_before_the_search_and_recorded(searched: tuple[Path, str]) -> None:
    folder, printed = searched
    table = record_of(folder)["space_table"]
    assert table["costs"]["latency_ms"]["smallest"] < table["costs"]["latency_ms"]["median"]
    assert table["draws"] >= 2000
    assert table["low"] <= table["share"] <= table["high"] < 1
    assert table["low"] <= table["exact_share"] <= table["high"]  # a latency table's limit has a closed form, too
    in_words = f"{SPACE.size:,} networks; inside the budget: {100 * table['share']:.3g} % ["
    assert in_words in printed
    assert printed.index("smallest") < printed.index("chosen")


def test_the_winner_stands_beside_the_baselines(searched: tuple[Path, str]) -> None:
    _, printed = searched
    assert "most expensive in the budget" in printed
    assert "homogeneous baseline" in printed


def test_a_search_records_its_fronts_and_the_best_after_so_many_images(searched: tuple[Path, str]) -> None:
    record, images = record_of(searched[0]), len(load_parts(DataConfig()).search)
    images -= round(0.2 * images)  # these are held out
    assert set(record["result"]["fronts"]) == {"params", "flops", "latency_ms", "all"}
    history = record["history"]["evolution"]
    assert history[0]["images"] == images
    assert history[-1]["images"] == 12 * images
    assert [point["best"] for point in history] == sorted(point["best"] for point in history)


@pytest.mark.parametrize(
    "method", ["pareto", pytest.param("random", marks=pytest.mark.slow), pytest.param("predictor", marks=pytest.mark.slow)]
)
def test_another_method_is_a_setting(supernet: Path, tmp_path: Path, method: str) -> None:
    answer = command(
        "search",
        "--supernet",
        supernet,
        "--out",
        tmp_path / "s",
        "--max-flops",
        "70%",
        "--json",
        "--quiet",
        *words(method=method),
    )
    assert answer.code == 0, answer.err
    assert list(answer.json["history"]) == [method]
    assert answer.json["space_table"]["exact_share"] > 0


def test_an_unknown_method_is_refused_with_the_known_ones(supernet: Path, tmp_path: Path) -> None:
    answer = command("search", "--supernet", supernet, "--out", tmp_path / "s", "--set", "method=annealing")
    assert "evolution" in answer.error
    assert "pareto" in answer.error


# --- answers from stored evaluations -----------------------------------------------------------------------------


def test_another_budget_is_answered_without_a_supernet(searched: tuple[Path, str], tmp_path: Path) -> None:
    source, out = searched[0], tmp_path / "answer"
    every = SearchRecord.load(source).result.candidates
    limit = sorted(c.cost.flops for c in every)[5]
    answer = command("search", "--from", source, "--max-flops", limit, "--out", out)
    assert answer.code == 0, answer.err
    inside = [c for c in every if c.cost.flops <= limit]
    assert f"{len(inside)} of {len(every)} evaluated architectures lie inside the budget" in answer.out
    found, record = SearchRecord.load(out).result, record_of(out)
    assert [c.architecture for c in found.candidates] == [c.architecture for c in inside]
    assert found.best.score.value == max(c.score.value for c in inside)
    assert found.chosen.cost.flops <= limit
    assert record["from"]["inside"] == len(inside)
    assert {path.name for path in out.iterdir()} == {"search.json", "identity.json"}


def test_a_stored_latency_answers_with_the_margin_it_was_searched_with(searched: tuple[Path, str], latency_table: Path) -> None:
    record = record_of(searched[0])
    every = SearchRecord.load(searched[0]).result.candidates
    limit = sorted(c.cost.latency_ms or 0 for c in every)[6]
    with_margin = limit / (1 + record["latency_margin"])
    answer = command("search", "--from", searched[0], "--max-latency", f"{limit}ms", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["budget"]["max_latency_ms"] == pytest.approx(with_margin)
    assert answer.json["from"]["inside"] == sum((c.cost.latency_ms or 0) <= with_margin for c in every)
    again = command("search", "--from", searched[0], "--max-latency", f"{limit}ms", "--latency-table", latency_table, "--json")
    assert again.json["result"]["chosen"] == answer.json["result"]["chosen"]


def test_a_table_of_another_device_leaves_the_latency_inconclusive(searched: tuple[Path, str]) -> None:
    folder, printed = searched
    answer = read_json(folder / "latency_answer.json")
    assert (answer["status"], answer["rounds"]) == ("inconclusive", [])
    assert "latency inconclusive: the latency table is of a test" in printed


def slower(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Every network takes so many times as long, when it is measured, as its table says."""
    from autoformer.profiling.measuring.verdict import Verdict
    from autoformer.profiling.tables import loop as latency_loop
    from autoformer.profiling.tables.limit import Timing

    def take(table: Table, wanted: Sequence[Architecture], *_: object, **options: object) -> dict[Architecture, Timing]:
        times = {network: factor * table.predict(network) for network in wanted}
        return {
            network: Timing(measured_ms=time, low_ms=0.999 * time, high_ms=1.001 * time, runs=500, verdict=Verdict("VALID"))
            for network, time in times.items()
        }

    monkeypatch.setattr(latency_loop, "measure_networks", take)


@pytest.fixture
def table_of_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table as if of this machine, 0.05 ms and 50 ms per GFLOP, on which every network then takes 4 % longer."""
    slower(monkeypatch, 1.04)
    facts = DeviceFacts.collect()
    means = MeasurementConditions(
        statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device=device_name(facts, "onnxruntime-cpu", 1)
    )
    measured = [(a, 0.05 + 50 * count_flops(a, SPACE) / 1e9) for a in designed_architectures(SPACE, 6)]
    Table.fit(SPACE, means, measured, device=facts).save(tmp_path / "here.json")
    return tmp_path / "here.json"


@pytest.mark.slow
def test_the_best_few_are_measured_and_what_is_extracted_is_what_was_chosen_then(
    supernet: Path, table_of_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ("--max-latency", "95%", "--latency-table", table_of_here)
    answer = command(
        "search", "--supernet", supernet, "--out", tmp_path / "s", *limits, "--seconds", "0.05", "--json", "--quiet", *words()
    )
    assert answer.code == 0, answer.err
    found = answer.json["latency_answer"]
    assert found == read_json(tmp_path / "s" / "latency_answer.json")
    assert found["status"] == "within budget"
    assert found["rounds"][0]["networks"][0]["error"] == pytest.approx(1 / 1.04 - 1)
    measured = [network["architecture"] for taken in found["rounds"] for network in taken["networks"]]
    assert found["architecture"] in measured
    again = command("search", "--supernet", supernet, "--out", tmp_path / "s", *limits, "--seconds", "0.05", "--quiet", *words())
    assert f"latency {found['status']}" in again.out
    assert "asked first" in again.out
    used = 1.04 * Table.load(table_of_here).predict(Architecture.from_dict(found["architecture"])) / found["limit_ms"]
    assert f"the choice uses {100 * used:.0f} % of the latency limit\n" in again.out  # as measured: 4 % above the prediction
    assert answer.json["limits_used"]["max_latency_ms"] == pytest.approx(used)
    assert "of the limit" in again.out
    assert read_json(tmp_path / "s" / "latency_answer.json") == found  # read, not measured again
    cut = command("extract", "--supernet", supernet, "--search", tmp_path / "s", "--out", tmp_path / "net", "--json")
    assert cut.json["architecture"] == found["architecture"]
    stored = command(
        "search", "--from", tmp_path / "s", *limits, "--out", tmp_path / "a", "--seconds", "0.05", "--json", "--quiet"
    )
    assert stored.json["latency_answer"]["limit_ms"] == found["limit_ms"]
    slower(monkeypatch, 40)
    over = command("search", "--from", tmp_path / "s", *limits, "--out", tmp_path / "o", "--json", "--quiet")
    assert over.json["latency_answer"]["status"] == "over budget"
    assert over.code == 1


@pytest.mark.slow
def test_measuring_can_be_left_out(supernet: Path, table_of_here: Path, tmp_path: Path) -> None:
    limits = ("--max-latency", "95%", "--latency-table", table_of_here, "--no-measure")
    answer = command("search", "--supernet", supernet, "--out", tmp_path / "s", *limits, "--json", "--quiet", *words())
    assert answer.code == 0, answer.err
    assert "latency_answer" not in answer.json
    assert not (tmp_path / "s" / "latency_answer.json").exists()


def test_limits_in_percent_are_of_the_largest_network_of_the_space(searched: tuple[Path, str]) -> None:
    answer = command("search", "--from", searched[0], "--max-flops", "90%", "--max-latency", "95%", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["budget"]["max_flops"] == pytest.approx(0.9 * count_flops(SPACE.largest, SPACE))


def test_the_best_is_chosen_and_the_cheapest_of_the_tied_can_be_asked_for(searched: tuple[Path, str]) -> None:
    record = record_of(searched[0])
    assert record["config"]["choose"] == "best"
    assert record["result"]["chosen"] == record["result"]["best"]
    asked = command("search", "--from", searched[0], "--max-flops", "90%", "--set", "choose=cheapest", "--json").json["result"]
    flops = {number: asked["candidates"][number]["cost"]["flops"] for number in asked["tied"]}
    assert len(set(flops.values())) > 1
    assert flops[asked["chosen"]] == min(flops.values())


def test_what_cheapest_costs_stands_in_the_help() -> None:
    said = " ".join(command("search", "--help").out.replace("│", " ").split())
    assert "costs 0.6 to 1.3 points of accuracy and uses 41 to 62 % of the limit" in said


def test_a_search_says_how_much_of_each_stated_limit_the_choice_uses(searched: tuple[Path, str], latency_table: Path) -> None:
    folder, printed = searched
    cost, largest = SearchRecord.load(folder).result.chosen.cost, ExactCosts(SPACE)(SPACE.largest)
    slowest = Table.load(latency_table).predict(SPACE.largest)
    params, flops = cost.params / (0.7 * largest.params), cost.flops / (0.7 * largest.flops)
    latency = (cost.latency_ms or 0) / (0.8 * slowest)
    said = (
        f"the choice uses {100 * params:.0f} % of the parameter limit, {100 * flops:.0f} % of the FLOPs limit, "
        f"{100 * latency:.0f} % of the latency limit (predicted)"
    )
    assert said in printed
    again = command("search", "--from", folder, "--max-flops", "90%", "--json").json
    chosen = again["result"]["candidates"][again["result"]["chosen"]]["cost"]["flops"]
    assert again["limits_used"] == {"max_flops": pytest.approx(chosen / (0.9 * largest.flops))}
    assert "the choice uses" not in command("search", "--from", folder).out  # there is no limit


def test_a_budget_that_no_stored_network_keeps_is_refused_in_one_line(searched: tuple[Path, str], tmp_path: Path) -> None:
    """Above the cheapest of the space, below the cheapest that was evaluated."""
    every = SearchRecord.load(searched[0]).result.candidates
    limit = min(c.cost.params for c in every) - 1
    assert limit > count_params(SPACE.smallest, SPACE)
    answer = command("search", "--from", searched[0], "--max-params", limit, "--out", tmp_path / "a")
    assert f"none of the {len(every)} networks" in answer.error
    assert "the nearest breaks max_params with" in answer.error
    assert not (tmp_path / "a").exists()


def test_a_budget_that_no_network_of_the_space_keeps_says_so(searched: tuple[Path, str]) -> None:
    with pytest.raises(BudgetError, match="its cheapest network"):
        StoredSearch(searched[0]).answer(Budget(max_params=10))


def test_a_latency_that_was_never_measured_cannot_be_asked_for(supernet: Path, tmp_path: Path) -> None:
    assert command("search", "--supernet", supernet, "--out", tmp_path / "s", "--quiet", *words()).code == 0
    answer = command("search", "--from", tmp_path / "s", "--max-latency", "1ms")
    assert "give a latency table" in answer.error


@pytest.mark.parametrize(
    ("options", "words_of_it"),
    [
        ((), "give one of --supernet"),
        (("--supernet", "x", "--from", "y"), "give one of --supernet"),
        (("--supernet", "x"), "give --out"),
        (("--from", "x", "--seed", "3"), "--seed has no effect with --from"),
        (("--from", "x", "--data", "digits"), "--data has no effect"),
        (("--from", "x", "--set", "population=9"), "population=9 has no effect"),
        (("--supernet", "x", "--no-measure"), "--no-measure has no effect without --max-latency"),
        (("--from", "x", "--seconds", "2"), "--seconds has no effect without --max-latency"),
        (("--from", "nowhere"), "nowhere/search.json does not exist"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: tuple[str, ...], words_of_it: str) -> None:
    assert words_of_it in command("search", *options).error


@pytest.mark.parametrize(
    "changes",
    [
        {"space": {}},
        {"latency_qualification": {"statistic": "p50"}},
        {"latency_margin": -2},
        {"space_table": {"costs": {"latency_ms": {"smallest": 0, "largest": 1}}}},
        {"config": []},
    ],
)
def test_a_damaged_record_is_no_source_of_answers(searched: tuple[Path, str], tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "search.json").write_text(json.dumps({**record_of(searched[0]), **changes}))
    with pytest.raises(CheckpointError, match=r"search.json is not a search result"):
        StoredSearch(tmp_path)


def test_a_budget_below_the_fully_evaluated_networks_is_refused_and_not_answered_from_few_images(
    supernet: Path, tmp_path: Path
) -> None:
    """By halving few networks are evaluated on everything; a budget that only others keep has no answer."""
    more = ("--set", "rungs=[0.1, 1]", "--set", "uniform_shapes=0", "--set", "method=random")
    done = command("search", "--supernet", supernet, "--out", tmp_path / "s", "--json", "--quiet", *words(), *more)
    result = done.json["result"]
    full = max(len(candidate["guesses"]) for candidate in result["candidates"])
    known = [candidate["cost"]["params"] for candidate in result["candidates"] if len(candidate["guesses"]) == full]
    others = [candidate["cost"]["params"] for candidate in result["candidates"] if len(candidate["guesses"]) < full]
    assert min(others) < min(known)
    answer = command("search", "--from", tmp_path / "s", "--max-params", str(min(known) - 1))
    assert "none of them on all" in answer.error
    assert "search anew under this budget" in answer.error
    inside = command("search", "--from", tmp_path / "s", "--max-params", str(min(known)), "--json").json["result"]
    assert inside["candidates"][inside["chosen"]]["cost"]["params"] == min(known)


def test_an_answer_can_be_asked_again(searched: tuple[Path, str], tmp_path: Path) -> None:
    limit = ("--max-latency", "75%")
    first = command("search", "--from", searched[0], *limit, "--out", tmp_path / "a", "--json")
    again = command("search", "--from", tmp_path / "a", *limit, "--json")
    assert again.code == 0, again.err
    assert again.json["budget"] == first.json["budget"]
    chosen = [answer.json["result"]["candidates"][answer.json["result"]["chosen"]]["architecture"] for answer in (first, again)]
    assert chosen[0] == chosen[1]


def test_a_search_does_not_go_on_with_another_table(searched: tuple[Path, str], supernet: Path, latency_table: Path) -> None:
    table = read_json(latency_table)
    table["coefficients"] = {name: 3 * value for name, value in table["coefficients"].items()}
    other = latency_table.with_name("other.json")
    other.write_text(json.dumps(table))
    answer = command(
        "search", "--supernet", supernet, "--out", searched[0], "--max-params", "70%", "--max-flops", "70%",
        "--max-latency", "80%", "--latency-table", other, "--quiet", *words(),
    )  # fmt: skip
    assert "holds" in answer.error


def test_a_limit_that_only_the_margin_breaks_says_so_and_names_what_can_be_asked(
    supernet: Path, latency_table: Path, tmp_path: Path
) -> None:
    table = Table.load(latency_table)
    least = table.predict(SPACE.smallest)
    values = read_json(latency_table)
    for network in values["networks"]:
        network["left_out_ms"] = network["measured_ms"] / 1.2  # a fifth slower than predicted
    values["ends_by_fit"] = False  # as tables of earlier versions: what a fifth is of, the ends as well
    (tmp_path / "doubtful.json").write_text(json.dumps(values))
    answer = command(
        "search", "--supernet", supernet, "--out", tmp_path / "s", "--max-latency", f"{1.1 * least}ms",
        "--latency-table", tmp_path / "doubtful.json",
    )  # fmt: skip
    assert "less the table's margin of 20 %" in answer.error
    assert f"{1.2 * least:.3g} ms can be searched with" in answer.error
