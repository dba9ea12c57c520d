"""What a report says about its search: names, fronts, progress, preferences, held-out images, what halving saved."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from autoformer.architecture import Architecture
from autoformer.cost import Cost, ExactCosts
from autoformer.errors import CheckpointError
from autoformer.metric import score
from autoformer.profiling.reports.blocks import Figure, Plot, words
from autoformer.profiling.reports.content import content
from autoformer.profiling.reports.page import markdown
from autoformer.profiling.reports.preferences import preference_tables, preferences, preferences_figure, shapes_figure
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.run_page import build_report, figures, run_page, summary_lines
from autoformer.search.candidate import Candidate
from autoformer.search.result import SearchResult, conclude
from autoformer.space import SearchSpace
from tests.support.run_folder import IMAGES, make_run

COSTS = {"FLOPs": "flops", "Parameters": "params", "Predicted latency": "latency_ms"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.load(make_run(tmp_path_factory.mktemp("search") / "run"))


def figure(run: Run, name: str) -> Figure:
    return next(figure for figure in figures(run) if figure.name == name)


def traces(plot: Plot) -> dict[str, Plot]:
    """By the first word of the name, which the number of points may follow."""
    return {trace["name"].partition(" (")[0]: trace for trace in plot["data"] if "name" in trace}


def heat_maps(run: Run, space: SearchSpace, result: SearchResult) -> Figure:
    """The front's preferences of this search."""
    found = preferences_figure(replace(run, space=space, search=result))
    assert found is not None
    return found


def text_of(run: Run) -> str:
    """The words of the report in one line."""
    return " ".join(markdown(run_page(run, content(run))).replace("\\", "").split())


# --- accuracy against cost ---------------------------------------------------------------------------------------


def test_the_candidates_figure_has_every_candidate_once_in_each_cost(run: Run) -> None:
    views = figure(run, "candidates").views
    assert list(views) == list(COSTS)
    for word, measure in COSTS.items():
        drawn = traces(views[word])
        points = [point for name in ("other", "tied", "chosen") for point in zip(drawn[name]["x"], drawn[name]["y"], strict=True)]
        assert sorted(points) == sorted((getattr(c.cost, measure), 100 * c.score.value) for c in run.search.candidates)


def test_the_best_and_the_baselines_have_marks_of_their_own(run: Run) -> None:
    """As tests/support/run_folder.py makes them: 7 has the best score, 5 is the most expensive, 11 the only homogeneous one."""
    drawn = traces(figure(run, "candidates").views["FLOPs"])
    for name, number in (("best", 7), ("most expensive in the budget", 5), ("homogeneous baseline", 11)):
        candidate = run.search.candidates[number]
        assert (drawn[name]["x"], drawn[name]["y"]) == ([candidate.cost.flops], [100 * candidate.score.value])
        assert name in drawn[name]["text"][0]
    looks = {trace["marker"].get("symbol", "circle") for trace in drawn.values() if trace["mode"] == "markers"}
    assert looks == {"circle", "star", "circle-open", "diamond-open", "square-open"}


def test_limits_are_lines_in_the_view_of_their_cost(run: Run) -> None:
    views = figure(run, "candidates").views
    assert [line["x0"] for line in views["Parameters"]["layout"]["shapes"]] == [200_000]
    assert views["FLOPs"]["layout"]["shapes"] == []
    stated, sought = views["Predicted latency"]["layout"]["shapes"]
    assert (stated["x0"], stated["line"]["dash"]) == (1.0, "dash")
    assert sought["x0"] < 1.0  # less the table's margin


def test_hovering_a_candidate_tells_architecture_cost_and_interval(run: Run) -> None:
    text = traces(figure(run, "candidates").views["FLOPs"])["chosen"]["text"][0]
    for needed in (
        "width 48, depth 3",
        "heads 2, 4, 3",
        "MLP ratios 2, 1, 1",
        "52.33k params",
        "multiply-adds",
        "91.9 % [88.0, 94.6]",
    ):
        assert needed in text


def test_the_front_holds_what_nothing_cheaper_or_equal_beats(run: Run) -> None:
    for word, measure in COSTS.items():
        undominated = [
            c
            for c in run.search.candidates
            if not any(
                (getattr(o.cost, measure) <= getattr(c.cost, measure) and o.score.value >= c.score.value)
                and (getattr(o.cost, measure), -o.score.value) != (getattr(c.cost, measure), -c.score.value)
                for o in run.search.candidates
            )
        ]
        line = traces(figure(run, "candidates").views[word])["Pareto front"]
        assert sorted(line["x"]) == line["x"] == sorted(getattr(c.cost, measure) for c in undominated)


def halved(run: Run) -> Run:
    """The run with candidate 0 scored on 30 images only, all of them right, and cheaper than any: it would beat all others."""
    result = run.search
    seen, nothing = result.labels[:30], Cost(params=1, flops=1, latency_ms=0.001)
    few = replace(result.candidates[0], predictions=seen, score=score(seen, seen), cost=nothing)
    return replace(run, search=replace(result, candidates=(few, *result.candidates[1:])))


def test_a_candidate_that_saw_fewer_images_is_faint_says_so_and_is_on_no_front(run: Run) -> None:
    run = halved(run)
    drawn = traces(figure(run, "candidates").views["FLOPs"])
    assert drawn["partial"]["y"] == [100.0]
    assert "saw only 30 of 270 search images" in drawn["partial"]["text"][0]
    assert "saw only" not in "".join(drawn["other"]["text"] + drawn["tied"]["text"])
    for property in ("opacity", "size"):
        assert drawn["partial"]["marker"][property] < drawn["other"]["marker"][property]
    assert max(drawn["Pareto front"]["y"]) < 100
    assert drawn["partial"]["x"][0] not in drawn["Pareto front"]["x"]
    report = content(run)
    few = next(entry for entry in report["search"]["evaluated"] if entry["score"]["images"] == 30)
    assert not any(few["number"] in members for members in report["search"]["fronts"].values())
    assert "up to 270 images of the search part (11 of them on all)" in text_of(run)


def test_a_baseline_that_saw_fewer_images_is_not_compared_with_the_chosen_network(run: Run) -> None:
    seen = run.search.labels[:30]
    few = replace(run.search.candidates[5], predictions=seen, score=score(seen, seen))
    run = replace(run, search=replace(run.search, baselines={"dearest": few}))
    assert content(run)["search"]["compared"]["dearest inside"]["against_chosen"] == "saw fewer images"
    assert "most expensive in the budget" not in traces(figure(run, "progress").views[""])


# --- the best so far ---------------------------------------------------------------------------------------------


def test_progress_follows_the_recorded_history(run: Run) -> None:
    """The first eight candidates are each better than all before, the others worse; all twelve count as images."""
    line = traces(figure(run, "progress").views[""])["evolution"]
    assert line["x"] == [IMAGES * number for number in (1, 2, 3, 4, 5, 6, 7, 8, 12)]
    assert line["y"] == pytest.approx([100 * right / 270 for right in (230, 233, 236, 239, 242, 245, 248, 251, 251)])
    assert content(run)["search"]["history"]["evolution"][-1] == {"images": 3240, "best": pytest.approx(251 / 270)}


def test_a_choice_from_stored_evaluations_has_no_progress_to_draw(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", search_record={"history": {}})
    build_report(folder)
    assert "progress" not in [figure.name for figure in figures(Run.load(folder))]


def test_baselines_are_level_lines_beside_the_progress(run: Run) -> None:
    data = figure(run, "progress").views[""]["data"]
    levels = {trace["legendgroup"]: trace["y"] for trace in data if trace.get("showlegend") is False}
    assert levels == {
        "most expensive in the budget": pytest.approx([100 * 245 / 270] * 2),
        "homogeneous baseline": pytest.approx([100 * 150 / 270] * 2),
    }


def test_a_history_of_several_methods_has_a_line_for_each(tmp_path: Path) -> None:
    history = {
        "random": [{"images": 270, "best": 0.5}, {"images": 2700, "best": 0.75}],
        "</script>": [{"images": 540, "best": 0.8}],
        "pareto": [],
    }
    folder = make_run(tmp_path / "run", search_record={"history": history})
    report = build_report(folder)
    assert set(report["search"]["history"]) == {"random", "</script>"}
    drawn = traces(figure(Run.load(folder), "progress").views[""])
    assert (drawn["random"]["x"], drawn["random"]["y"]) == ([270, 2700], [50.0, 75.0])
    assert drawn["&lt;/script&gt;"]["line"]["color"] != drawn["random"]["line"]["color"]


@pytest.mark.parametrize(
    "record",
    [
        {"history": {"random": [{"images": 0, "best": 0.5}]}},
        {"history": {"random": [{"images": 270, "best": 1.5}]}},
        {"history": {"random": [{"images": 270}]}},
        {"history": [[270, 0.5]]},
    ],
)
def test_a_damaged_history_is_named(tmp_path: Path, record: dict[str, Any]) -> None:
    folder = make_run(tmp_path / "run", search_record=record)
    with pytest.raises(CheckpointError, match=r"search\.json is"):
        build_report(folder)


# --- preferences -------------------------------------------------------------------------------------------------

SPACE = SearchSpace(
    name="two", embed_dims=(16, 32), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(1.0, 2.0), image_sizes=(8,), head_dim=16,
    patch_size=4, in_chans=1, num_classes=2, max_relative_position=2,
)  # fmt: skip


def network(width: int, heads: tuple[int, ...], ratios: tuple[float, ...]) -> Architecture:
    return Architecture(embed_dim=width, num_heads=heads, mlp_ratio=ratios)


def searched(space: SearchSpace, networks: list[tuple[Architecture, int]]) -> SearchResult:
    """A search that evaluated these networks, each with so many of 10 images right."""
    labels = np.zeros(10, dtype=np.int64)
    candidates = []
    for number, (architecture, right) in enumerate(networks):
        predicted = (np.arange(10) >= right).astype(np.int64)
        cost = ExactCosts(space)(architecture)
        candidates.append(
            Candidate(
                number=number,
                generation=0,
                architecture=architecture,
                cost=cost,
                predictions=predicted,
                score=score(predicted, labels),
            )
        )
    return conclude(candidates, labels, "best")


@pytest.fixture(scope="module")
def small() -> SearchResult:
    """Four networks; the second is more expensive and worse than the first, so it is not on the front."""
    return searched(
        SPACE,
        [
            (network(16, (1,), (1.0,)), 5),
            (network(16, (2,), (2.0,)), 4),
            (network(32, (1, 2), (1.0, 1.0)), 7),
            (network(32, (2, 2), (2.0, 1.0)), 9),
        ],
    )


def test_preferences_are_counted_as_by_hand(small: SearchResult) -> None:
    found = preferences(SPACE, small)
    assert (found["front"], found["evaluated"]) == (3, 4)
    assert found["shapes"] == {
        "width": [{"choice": 16, "front": 1, "evaluated": 2}, {"choice": 32, "front": 2, "evaluated": 2}],
        "depth": [{"choice": 1, "front": 1, "evaluated": 2}, {"choice": 2, "front": 2, "evaluated": 2}],
    }
    first, second = found["blocks"]
    assert first == {
        "block": 1, "front": 3, "evaluated": 4,
        "heads": [{"choice": 1, "front": 2, "evaluated": 2}, {"choice": 2, "front": 1, "evaluated": 2}],
        "mlp_ratio": [{"choice": 1.0, "front": 2, "evaluated": 2}, {"choice": 2.0, "front": 1, "evaluated": 2}],
    }  # fmt: skip
    assert (second["front"], second["evaluated"]) == (2, 2)  # two networks have no second block
    assert second["heads"] == [{"choice": 1, "front": 0, "evaluated": 0}, {"choice": 2, "front": 2, "evaluated": 2}]


def test_the_heat_map_shows_how_much_more_often_the_front_makes_a_choice(run: Run, small: SearchResult) -> None:
    heads, ratios = heat_maps(run, SPACE, small).views[""]["data"]
    assert (heads["x"], heads["y"]) == ([1, 2], ["1", "2"])
    assert heads["z"] == [[pytest.approx(100 * (2 / 3 - 1 / 2), abs=0.01), 0.0], [pytest.approx(-16.67, abs=0.01), 0.0]]
    assert heads["text"] == [["67", "0"], ["33", "100"]]
    assert heads["hovertext"][1][0] == "block 1, heads 2<br>1 of 3 on the front (33 %)<br>2 of 4 evaluated (50 %)"
    assert ratios["y"] == ["1", "2"]


def test_the_same_numbers_stand_in_tables(run: Run, small: SearchResult) -> None:
    report = {"search": {"preferences": preferences(SPACE, small)}}
    heads, ratios, shapes = preference_tables(report)
    assert heads.columns == ("block", "networks", "heads 1", "heads 2")
    assert heads.rows == (("1", "3 / 4", "67 / 50", "33 / 50"), ("2", "2 / 2", "0 / 0", "100 / 100"))
    assert ratios.rows[1] == ("2", "2 / 2", "100 / 100", "0 / 0")
    assert shapes.rows[1] == ("width 32", "67 / 50")


def test_blocks_that_the_front_does_not_reach_are_left_out_of_the_heat_map(run: Run) -> None:
    result = searched(SPACE, [(network(16, (1,), (1.0,)), 9), (network(16, (1, 1), (1.0, 1.0)), 3)])
    found = heat_maps(run, SPACE, result)
    heads, _ = found.views[""]["data"]
    assert (heads["x"], heads["z"]) == ([1], [[0.0], [0.0]])
    assert "Blocks after 1 are left out: no network on the front is so deep." in found.caption
    rows = preference_tables({"search": {"preferences": preferences(SPACE, result)}})[0].rows
    assert rows[1] == ("2", "0 / 1", "– / 100", "– / 0")


def test_preferences_are_not_drawn_out_of_noise(run: Run, tmp_path: Path) -> None:
    """Eight networks that are right on as many images each, but others: they spread by nothing, chance would spread them."""
    labels, base = np.arange(IMAGES) % 10, run.search.candidates
    wrong = [np.roll(np.arange(IMAGES) < 60, 30 * number) for number in range(8)]
    alike = [
        replace(
            candidate, generation=0, predictions=(found := np.where(mask, labels + 1, labels) % 10), score=score(found, labels)
        )
        for candidate, mask in zip(base[:8], wrong, strict=True)
    ]
    noisy = replace(run, search=conclude(alike, labels, "cheapest"))
    assert (preferences_figure(noisy), shapes_figure(noisy)) == (None, None)
    assert not {"blocks", "shapes"} & {figure.name for figure in figures(noisy)}
    said = text_of(noisy)
    assert "No preferences are drawn, because what the front prefers would be noise (see The choice)." in said
    assert said.count("andom networks spread by") == 1
    assert "The supernet is not searchable: " in said
    assert "longer training (train.epochs)" in said
    assert "Heads by block" not in said
    assert any(line.startswith("search: the supernet is not searchable: ") for line in summary_lines(content(noisy)))
    assert "search: not much more than chance" in text_of(noisy)
    assert "search: not much more than chance" not in text_of(run)
    assert "Heads by block" in text_of(run)


def test_a_resolution_that_is_a_choice_is_counted() -> None:
    space = replace(SPACE, image_sizes=(8, 16))
    networks = [(replace(network(16, (1,), (1.0,)), image_size=size), right) for size, right in ((8, 4), (16, 8), (16, 2))]
    shapes = preferences(space, searched(space, networks[:2]))["shapes"]
    assert shapes["image size"] == [{"choice": 8, "front": 1, "evaluated": 1}, {"choice": 16, "front": 1, "evaluated": 1}]
    shapes_table = preference_tables({"search": {"preferences": preferences(space, searched(space, networks[:2]))}})[2]
    assert ("image size 16 px", "50 / 50") in shapes_table.rows


def test_cells_of_many_blocks_have_no_numbers_that_would_not_fit(run: Run) -> None:
    space, rng = SearchSpace.preset("base"), random.Random(0)
    result = searched(space, [(space.sample(rng), right) for right in (3, 5, 7)])
    heads, _ = heat_maps(run, space, result).views[""]["data"]
    assert len(heads["x"]) > 10
    assert {text for row in heads["text"] for text in row} == {""}
    assert any("% " in text or "%)" in text for row in heads["hovertext"] for text in row)


# --- held-out images and halving ------------------------------------------------------------------------------------


def test_the_score_on_held_out_images_is_quoted_and_the_one_of_the_choice_stands_beside(run: Run) -> None:
    """The chosen network has 120 of 150 images right that took no part in the choice."""
    result, labels = run.search, np.zeros(150, dtype=np.int64)
    predicted = (np.arange(150) >= 120).astype(np.int64)
    again = [replace(c, held_out=predicted) if c.number == result.chosen.number else c for c in result.candidates]
    run = replace(run, search=replace(result, candidates=tuple(again), held_out_labels=labels))
    interval = binomtest(120, 150).proportion_ci(method="wilson")
    words = f"80 % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"
    text, report = text_of(run), content(run)
    assert f"of the chosen network is {words} on 150 held-out images, which took no part in the choice" in text
    assert "On the search images it is 91.9 % [88.0, 94.6] for the chosen network" in text
    assert "| on 150 held-out images |" in text
    assert f"; on 150 held-out images: {words}" in "\n".join(summary_lines(report))
    assert f"on 150 held-out images {words}" in traces(figure(run, "candidates").views["FLOPs"])["chosen"]["text"][0]
    assert report["search"]["confirmation"]["scores"][str(result.chosen.number)]["correct"] == 120
    assert report["search"]["compared"]["dearest inside"]["confirmed"] is None


def test_without_held_out_images_the_scores_are_called_optimistic(run: Run) -> None:
    text = text_of(run)
    assert "such scores are optimistic" in text
    assert "Only the score on the test part is not." in text
    assert "held-out" not in text
    assert content(run)["search"]["confirmation"] is None


def test_a_sentence_says_what_halving_and_earlier_searches_saved(run: Run) -> None:
    """Twelve networks on 270 images would be 3240; one saw only 30, which saves 240 or 7 %."""
    few = halved(run)
    few = replace(few, search=replace(few.search, candidates=tuple(replace(c, reused=100) for c in few.search.candidates)))
    assert content(few)["search"]["work"]["saved"] == pytest.approx(240 / 3240)
    sentence = "Together they saw 3,000 images, 7 % fewer than if every network had seen every image; 1,200 predictions came from"
    assert sentence in text_of(few)
    assert "Together they saw" not in text_of(run)  # nothing was saved


# --- spaces that ask for more ------------------------------------------------------------------------------------

ASKING = replace(SPACE, stem="conv", stem_depths=(0, 1), patch_sizes=(2, 4), mlp_kernels=(0, 3), pool_after=(0, 1), depths=(2,))


def asking(patch: int, stem: int, kernels: tuple[int, int], pool: int) -> Architecture:
    shape = network(16, (1, 1), (1.0, 1.0))
    return replace(shape, patch_size=patch, stem_depth=stem, mlp_kernel=kernels, pool_after=pool)


def test_kernels_halving_patches_and_stems_are_counted_where_the_space_asks_for_them(run: Run) -> None:
    result = searched(ASKING, [(asking(4, 0, (0, 3), 1), 8), (asking(2, 1, (3, 3), 0), 5), (asking(2, 0, (0, 0), 0), 9)])
    found = preferences(ASKING, result)
    assert [found["front"], found["evaluated"]] == [2, 3]  # the second costs more than the third and is worse
    assert found["shapes"]["patch size"] == [
        {"choice": 2, "front": 1, "evaluated": 2}, {"choice": 4, "front": 1, "evaluated": 1},
    ]  # fmt: skip
    assert found["shapes"]["stem depth"][1] == {"choice": 1, "front": 0, "evaluated": 1}
    assert found["shapes"]["halved after block"][0] == {"choice": 0, "front": 1, "evaluated": 2}
    assert [block["mlp_kernel"][1] for block in found["blocks"]] == [
        {"choice": 3, "front": 0, "evaluated": 1}, {"choice": 3, "front": 1, "evaluated": 2},
    ]  # fmt: skip
    kernels, shapes = preference_tables({"search": {"preferences": found}})[2:]
    assert kernels.title == "MLP kernels by block"
    assert kernels.rows[1] == ("2", "2 / 3", "50 / 33", "50 / 67")
    assert ("patch size 4 px", "50 / 33") in shapes.rows
    assert ("never halved", "50 / 67") in shapes.rows
    figure = heat_maps(run, ASKING, result)
    assert figure.title == "Heads, MLP ratios and kernels, block by block"
    assert [trace["yaxis"] for trace in figure.views[""]["data"]] == ["y", "y2", "y3"]
    layout = figure.views[""]["layout"]
    domains = [layout[axis]["domain"] for axis in ("yaxis3", "yaxis2", "yaxis")]
    assert all(low < high for low, high in domains)
    assert domains[0][1] < domains[1][0]
    assert domains[1][1] < domains[2][0]
    bars = shapes_figure(replace(run, space=ASKING, search=result))
    assert bars is not None
    assert "halved after block never: 1 of 2 on the front" in bars.views[""]["data"][0]["text"]


def test_a_hover_label_names_what_only_some_spaces_ask_for() -> None:
    assert words(network(16, (1, 1), (1.0, 1.0))) == "width 16, depth 2<br>heads 1, 1<br>MLP ratios 1, 1"
    assert words(asking(4, 1, (0, 3), 1)).split("<br>")[3:] == [
        "patch 4 px", "stem depth 1", "MLP kernels 0,3", "grid halved after block 1",
    ]  # fmt: skip
