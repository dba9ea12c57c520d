"""The race in a report, in `describe`, and in what is read back of a run: numbers are the record's, or counted by hand."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from autoformer.files import read_json, write_json
from autoformer.profiling.race.agreement import Agreement
from autoformer.profiling.race.record import RaceRecord
from autoformer.profiling.reports import race as race_pages
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.run_page import build_report, figures, summary_lines
from tests.support.commands import command
from tests.support.edited_folders import one_line
from tests.support.pages import Page
from tests.support.races import LIMIT_MS, RIVAL, after_race, make_race
from tests.support.run_folder import SPACE, make_run


def run_with(folder: Path, *, winner: str = "chosen", **more: Any) -> Path:
    """A finished run with a race, won by the search's choice or by a network of timm."""
    make_run(folder)
    return after_race(folder, make_race(Run.load(folder).search.chosen.architecture, winner=winner, **more))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = run_with(tmp_path_factory.mktemp("race") / "own")
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = run_with(tmp_path_factory.mktemp("race") / "foreign", winner="resnet")
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return race_pages.values(make_race(SPACE.smallest))


# --- values and tables -------------------------------------------------------------------------------------------


def test_entrants_stand_in_the_order_of_the_final_ranking(values: dict[str, Any]) -> None:
    # 24 epochs: 180 and 170 right; 2 epochs: 110 and 80 right; the last never came to a score.
    assert [one["name"] for one in values["entrants"]] == ["chosen", "resnet", "second", "alike", "broken"]
    assert [one["epochs"] for one in values["entrants"]] == [24, 24, 2, 2, 0]
    assert [one["finished"] for one in values["entrants"]] == [True, True, False, False, False]


def test_a_runner_up_that_came_less_far_than_another_still_stands_second() -> None:
    values = race_pages.values(replace(make_race(SPACE.smallest), runner_up="alike"))
    assert [one["name"] for one in values["entrants"]][:3] == ["chosen", "alike", "resnet"]


def test_scores_have_the_intervals_of_scipy_and_times_their_share_of_the_limit(values: dict[str, Any]) -> None:
    best = values["entrants"][0]
    interval = binomtest(180, 200).proportion_ci(method="wilson")
    assert (best["score"]["correct"], best["score"]["images"]) == (180, 200)
    assert (best["score"]["low"], best["score"]["high"]) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert (best["latency_ms"], best["low_ms"], best["high_ms"]) == pytest.approx((0.8, 0.76, 0.84))
    assert best["share_of_limit"] == pytest.approx(0.8)
    assert best["held_out_score"]["correct"] == 88


def test_the_cost_is_counted_as_by_hand(values: dict[str, Any]) -> None:
    # Beside the winner's own 24 epochs: 2 of its other rate, 2 + 24 of the second, and 2 + 2 each of the three others.
    cost = values["cost"]
    assert (cost["extra_epochs"], cost["epochs"], cost["finetunes"]) == (40, 24, pytest.approx(40 / 24))
    assert (cost["extra_seconds"], cost["own_seconds"]) == (400, 240)
    assert race_pages.cost_text(values) == (
        "The race cost 1.7 finetunes beyond the delivered network's own: 40 epochs, where a finetune has 24; 6 min 40 s beside "
        "4 min 0 s. Spent on other things: measuring 1 min 35 s."
    )


def test_one_epoch_and_one_finetune_are_written_in_the_singular(values: dict[str, Any]) -> None:
    cost = {**values["cost"], "finetunes": 1.0, "extra_epochs": 1, "epochs": 1}
    assert "cost 1 finetune beyond the delivered network's own: 1 epoch, where" in race_pages.cost_text({**values, "cost": cost})
    report = {"race": {**values, "schedule": {**values["schedule"], "epochs": 1}}}
    (section,) = race_pages.sections(report)
    assert "to the end after 1 epoch, and" in section.text[0]


def test_the_report_says_who_goes_on_and_how_equal_scores_are_ordered(values: dict[str, Any]) -> None:
    """As `halving` has it: by score, then latency, then the order of starting; the best of either start keeps a place."""
    (section,) = race_pages.sections({"race": values})
    way = section.text[0]
    assert way.endswith(
        "the best to the end after 24 epochs, and with it the second where the two cannot be told apart, or where it alone began "
        "from scratch. After each step the highest scores go on; of equal ones that of the faster network is first, then that of "
        "the one named first. A network learns longer from scratch, so the best of those that began so, and the best of the "
        "others, each keep a place, also before higher scores."
    )
    of_one_start = {**values, "entrants": [one for one in values["entrants"] if one["start"] != "from scratch"]}
    (section,) = race_pages.sections({"race": of_one_start})
    assert section.text[0].endswith(
        "where the two cannot be told apart. After each step the highest scores go on; of equal ones "
        "that of the faster network is first, then that of the one named first."
    )


def test_a_race_whose_last_step_is_the_end_names_no_further_one(values: dict[str, Any]) -> None:
    schedule = {**values["schedule"], "epochs": 6}
    (section,) = race_pages.sections({"race": {**values, "schedule": schedule}})
    assert "2 to epoch 6. After each step" in section.text[0]


def rows_of(values: dict[str, Any]) -> list[dict[str, str]]:
    """What both tables say of each entrant, by column."""
    tables = (race_pages.entrant_table(values), race_pages.result_table(values))
    rows = ([dict(zip(table.columns, row, strict=True)) for row in table.rows] for table in tables)
    return [{**one, **other} for one, other in zip(*rows, strict=True) if one["name"] == other["name"]]


def test_the_tables_say_of_each_what_it_is_how_far_it_came_and_how_it_ended(values: dict[str, Any]) -> None:
    best, second, third, fourth, last = rows_of(values)
    latency, share, scored = "latency, 95 % interval", "of the limit, 1 ms", "accuracy on 200 images"
    assert (best["name"], best["what it is"], best["network"]) == ("1  chosen", "found by the search", SPACE.smallest.slug)
    assert (best["images"], best["starts"], best["parameters"]) == ("8 px", "inherited", "123.5k")
    assert (best[latency], best[share], best["learning rate"]) == ("0.80 ms [0.76, 0.84]", "80 %", "× 1")
    assert (best["epochs"], best[scored], best["how it ended"]) == ("24", "90 % [85, 93]", "delivered")
    assert best["on 100 held-out images"] == "88 % [80, 93]"
    assert (second["network"], second["starts"], second["learning rate"]) == (RIVAL, "pretrained", "× 4")
    assert (second["how it ended"], third["how it ended"]) == ("runner-up", "behind after 2 epochs (55 % [48, 62])")
    assert fourth[latency] == "0.7 ms predicted"
    assert (last["starts"], last["learning rate"], last["epochs"], last[scored]) == ("from scratch", "–", "0", "–")
    assert last["how it ended"] == "out of memory"


def test_a_runner_up_that_cannot_be_told_apart_is_called_so() -> None:
    table = race_pages.result_table(race_pages.values(make_race(SPACE.smallest, tied=True)))
    assert table.rows[1][-1] == "runner-up, cannot be told apart"


def test_without_a_limit_or_held_out_images_the_tables_have_no_columns_for_them(values: dict[str, Any]) -> None:
    race = make_race(SPACE.smallest)
    bare = tuple(replace(one, held_out=None) for one in race.entrants)
    race = replace(race, limits=replace(race.limits, max_latency_ms=None), entrants=bare)
    without = rows_of(race_pages.values(race))[0]
    assert set(rows_of(values)[0]) - set(without) == {"of the limit, 1 ms", "on 100 held-out images"}


def test_networks_that_did_not_start_are_listed_with_the_reason(values: dict[str, Any]) -> None:
    rows = race_pages.refused_table(values).rows
    assert rows[0] == ("slow", "rival out of timm", "timm:vgg16", "7 ms against the limit of 1 ms")
    assert rows[1][-1] == "timm knows no network of this name"


@pytest.mark.parametrize(
    ("interval", "said"),
    [((0.2, 0.6, 0.9), "much the same order"), ((-0.3, 0.6, 0.9), "the interval holds 0"), ((-1, -0.6, -0.2), "misled")],
)
def test_tau_is_put_into_words_by_its_interval(interval: tuple[float, float, float], said: str) -> None:
    low, tau, high = interval
    race = replace(make_race(SPACE.smallest), agreement=Agreement(tau=tau, low=low, high=high, networks=4))
    text = race_pages.agreement_text(race_pages.values(race))
    assert said in text
    assert f"those after 2 epochs of finetuning is {tau:+.2f} [{low:+.2f}, {high:+.2f}] over 4 networks" in text


def test_without_tau_the_report_says_why() -> None:
    race = replace(make_race(SPACE.smallest), agreement=None)
    assert "Too few networks with inherited scores" in race_pages.agreement_text(race_pages.values(race))


# --- figures -----------------------------------------------------------------------------------------------------


def drawn(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The traces of one of the figures, by the number that their names begin with."""
    figure = next(figure for figure in race_pages.figures(values) if figure.name == name)
    return {trace["name"].split()[0]: trace for trace in figure.views[""]["data"]}


def test_curves_rise_by_epochs_and_those_that_are_out_fade(values: dict[str, Any]) -> None:
    traces = drawn(values, "race")
    assert list(traces) == ["4", "3", "2", "1"]  # the winner is drawn on top; the fifth never came to a score
    assert (traces["1"]["x"], traces["1"]["y"]) == ([2, 6, 24], [60, 75, 90])
    assert (traces["2"]["x"], traces["2"]["y"]) == ([2, 6, 24], [65, 76, 85])  # by its better learning rate
    assert traces["1"]["opacity"] == traces["2"]["opacity"] == 1
    assert traces["3"]["opacity"] == traces["4"]["opacity"] < 0.5
    widths = [traces[number]["line"]["width"] for number in "1234"]
    assert widths[0] > widths[1] > widths[2] == widths[3]


def test_scores_stand_against_latencies_with_the_limit_as_a_line(values: dict[str, Any]) -> None:
    traces = drawn(values, "race-latency")
    points = [(*traces[number]["x"], *traces[number]["y"]) for number in "1234"]
    assert np.array(points) == pytest.approx(np.array([(0.8, 90), (0.9, 85), (0.6, 55), (0.7, 40)]))
    assert traces["1"]["error_x"]["array"] == pytest.approx([0.04])
    assert traces["4"]["error_x"]["array"] == [0]  # predicted
    assert [traces[number]["marker"]["symbol"].endswith("open") for number in "1234"] == [False, False, True, True]
    layout = race_pages.figures(values)[1].views[""]["layout"]
    assert [line["x0"] for line in layout["shapes"]] == [LIMIT_MS]
    assert layout["xaxis"]["range"][0] < 0.57 < LIMIT_MS < layout["xaxis"]["range"][1]


def test_without_any_latency_there_is_one_figure() -> None:
    race = make_race(SPACE.smallest)
    without = tuple(replace(one, entrant=replace(one.entrant, timing=None, predicted_ms=None)) for one in race.entrants)
    values = race_pages.values(replace(race, entrants=without, measurement_conditions=None))
    assert [figure.name for figure in race_pages.figures(values)] == ["race"]
    assert "No latency was measured" in race_pages.entrant_table(values).note


@pytest.mark.parametrize("which", ["own", "foreign"])
def test_plotly_knows_every_property_of_the_figures_of_a_run_with_a_race(which: str, request: pytest.FixtureRequest) -> None:
    import plotly.graph_objects as plotly

    found = figures(Run.load(request.getfixturevalue(which)))
    assert {"race", "race-latency", "finetune"} <= {figure.name for figure in found}
    for figure in found:
        for plot in figure.views.values():
            plotly.Figure(plot)  # raises on a property that plotly does not have


# --- the report of a run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["own", "foreign"])
def test_page_and_markdown_begin_with_the_decision_and_show_the_race(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    report, record = read_json(folder / "report.json"), RaceRecord.load(folder / "race")
    sentence = record.sentence()
    assert report["race"]["sentence"] == sentence
    assert report["race"]["winner"] == record.winner
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert f"{sentence} Exported, it was measured on" in page.text
    assert page.text.count(sentence) == 1
    assert any(row[0] == f"1  {record.winner}" and row[-1] == "delivered" for row in page.rows)
    assert ["race", "1 h 30 min"] in page.rows
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "## The race" in text
    assert "Kendall's tau between inherited scores and those after 2 epochs of finetuning is +0.33 " in text
    assert sentence in summary_lines(report)
    assert len(summary_lines(report)) <= 15


def test_what_is_delivered_is_the_network_of_timm_that_won(foreign: Path) -> None:
    report = read_json(foreign / "report.json")
    chosen = report["chosen"]
    assert (chosen["slug"], chosen["architecture"], chosen["search_score"]) == (RIVAL, None, None)
    assert (chosen["params"], chosen["flops"], chosen["predicted_latency_ms"]) == (123_456, 7_890_000, None)
    assert report["budget"][0]["found"] == 123_456
    latency = report["budget"][1]
    assert (latency["predicted"], latency["met"]) == (None, "within budget")
    assert "inherited" not in report["test"]
    assert "network as inherited" not in report["files"]
    assert report["files"]["race"] == {"path": "race/race.json"}
    text = (foreign / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# A network for digits")
    assert "supernet weights, as inherited" not in text
    assert "not compared: the table predicts networks of the search's space only" in text
    assert f"delivers {RIVAL} for digits (seed 3): rival out of timm, images of 8 px" in summary_lines(report)
    prediction = report["latency_table"]["prediction"]
    assert (prediction["error"], prediction["reason"]) == (None, "the table predicts networks of the search's space only")
    table = next(figure for figure in figures(Run.load(foreign)) if figure.name == "table")
    assert len(table.views["against FLOPs"]["data"]) == 2  # the fit and its networks
    assert [trace["name"] for trace in table.views["measured against predicted"]["data"]] == ["as predicted", "of the table (5)"]


def test_a_winner_whose_flops_could_not_be_counted_has_none_in_its_report(tmp_path: Path) -> None:
    folder = run_with(tmp_path / "run", winner="resnet")
    race = RaceRecord.load(folder / "race")
    uncounted = tuple(replace(one, entrant=replace(one.entrant, flops=None)) for one in race.entrants)
    replace(race, entrants=uncounted).save(folder / "race")
    report = build_report(folder)
    assert report["chosen"]["flops"] is None
    rows = Page((folder / "report.html").read_text(encoding="utf-8")).rows
    assert any(row[0].startswith("FLOPs") and row[3:] == ["–", "–", "–", "it could not be counted"] for row in rows)


def test_what_the_search_chose_is_still_told_beside_a_winner_of_timm(foreign: Path) -> None:
    run, report = Run.load(foreign), read_json(foreign / "report.json")
    assert report["search"]["compared"]["chosen"]["slug"] == run.search.chosen.architecture.slug
    assert "Whether that is delivered was decided by finetuning" in (foreign / "report.md").read_text(encoding="utf-8")


def test_networks_timed_in_the_race_are_counted(own: Path) -> None:
    gaps = {item["what"]: item["reason"] for item in read_json(own / "report.json")["not_measured"]}
    # chosen, second, resnet, broken and the refused one were measured, "alike" was not
    assert gaps["Latency of the other candidates"].startswith("only the delivered network and 4 others were exported and timed")


def test_a_run_without_a_race_says_nothing_of_one(tmp_path: Path) -> None:
    report = build_report(make_run(tmp_path / "run"))
    assert "race" not in report
    assert not re.search(r"\brace", (tmp_path / "run" / "report.md").read_text(encoding="utf-8"))


def test_names_of_networks_are_shown_letter_by_letter(tmp_path: Path) -> None:
    hostile = 'timm:<img src=x onerror="alert(1)">|a\u202eb%{x}'
    folder = run_with(tmp_path / "run", rival=hostile)
    build_report(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not [attrs for tag, attrs in page.elements if tag == "img" or any(name.startswith("on") for name in attrs)]
    assert 'timm:<img src=x onerror="alert(1)">|a\\u202eb%{x}' in page.text
    plots = {figure["name"]: figure for figure in json.loads(page.scripts[0])}
    for name in ("race", "race-latency"):
        names = [trace["name"] for trace in plots[name]["views"][0]["plot"]["data"]]
        assert '2  timm:&lt;img src=x onerror="alert(1)"&gt;|a\\u202eb&#37;{x}' in names
    markdown = (folder / "report.md").read_text(encoding="utf-8").partition("## Do it again")[0]
    assert not re.findall(r"<\s*/?\s*[a-zA-Z]", markdown)
    for table in (block for block in markdown.split("\n\n") if block.startswith("|")):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


# --- contradictions ----------------------------------------------------------------------------------------------


def test_a_race_won_by_another_network_than_was_exported_is_refused(own: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(own, tmp_path / "run"))
    make_race(SPACE.largest).save(folder / "race")
    one_line(lambda: Run.load(folder), "export", "race was won by", SPACE.largest.slug, "not of one run")


def test_a_network_of_timm_in_the_export_of_a_race_that_the_search_won_is_refused(foreign: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(foreign, tmp_path / "run"))
    shutil.rmtree(folder / "race")
    (folder / "finetuned" / "network.json").rename(folder / "finetuned" / "subnet.json")
    one_line(lambda: Run.load(folder), "subnet.json", "autoformer/subnet/1")


def test_another_network_of_timm_than_won_is_refused(foreign: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(foreign, tmp_path / "run"))
    manifest = folder / "export" / "manifest.json"
    write_json({**read_json(manifest), "network": "timm:resnet34"}, manifest)
    one_line(lambda: Run.load(folder), "timm:resnet34", RIVAL, "not of one run")
    write_json({**read_json(manifest), "network": f"{RIVAL}.a1_in1k"}, manifest)  # the same, with the mark of its weights
    assert Run.load(folder).delivered.name == RIVAL


def test_inherited_predictions_must_be_there_exactly_where_something_was_inherited(
    own: Path, foreign: Path, tmp_path: Path
) -> None:
    for source, inherited, said in ((own, False, "are missing"), (foreign, True, "inherited nothing")):
        folder = Path(shutil.copytree(source, tmp_path / source.name))
        test = read_json(folder / "test.json")
        guesses = {**test["guesses"], "inherited": test["guesses"]["finetuned"]}
        if not inherited:
            del guesses["inherited"]
        write_json({**test, "guesses": guesses}, folder / "test.json")
        one_line(lambda folder=folder: Run.load(folder), "test.json", said)  # type: ignore[misc]


def test_a_race_of_another_metric_is_refused(own: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(own, tmp_path / "run"))
    other = make_run(tmp_path / "other", metric="macro_f1")
    shutil.copytree(folder / "race", other / "race")
    one_line(lambda: Run.load(other), "race.json", "top1", "macro_f1")


@pytest.mark.parametrize("content", ['{"format": ', "{}", "[]", '{"format": "other/1"}', None])
def test_a_race_that_is_damaged_or_missing_from_its_folder_is_named(own: Path, tmp_path: Path, content: str | None) -> None:
    folder = Path(shutil.copytree(own, tmp_path / "run"))
    path = folder / "race" / "race.json"
    path.unlink() if content is None else path.write_text(content)
    one_line(lambda: Run.load(folder), "race.json")


def test_a_score_whose_predictions_were_taken_out_is_refused(own: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(own, tmp_path / "run"))
    path = folder / "race" / "race.json"
    race = read_json(path)
    race["entrants"][0]["trained"][0]["guesses"] = None
    write_json(race, path)
    one_line(lambda: Run.load(folder), "race.json", "without predictions")


# --- commands ----------------------------------------------------------------------------------------------------


def test_describe_prints_the_decision_and_the_table_or_the_record(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")  # a table in a pipe is as wide as its cells then
    record = RaceRecord.load(foreign / "race")
    told = command("describe", foreign / "race")
    assert told.code == 0, told.err
    assert told.out.startswith(record.sentence())
    for words in ("1 resnet", "second-network", "behind after 2 epochs", "timm:vgg16", "Kendall's tau", "1.7 finetunes"):
        assert words in " ".join(told.out.split())
    found = command("describe", foreign / "race", "--json").json
    assert found.pop("kind") == "race"
    assert RaceRecord.from_dict(found) == record
    assert "has no effect" in command("describe", foreign / "race", "--space", "tiny").error


@pytest.mark.slow
def test_a_real_run_whose_race_was_won_by_a_network_of_timm_is_reported_and_compared(finished_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_run, tmp_path / "run"))
    after_race(folder, make_race(Run.load(folder).search.chosen.architecture, winner="resnet"))
    built = command("report", "build", folder)
    assert built.code == 0, built.err
    assert f"delivers {RIVAL}" in built.out
    joined = command("report", "build", folder, folder / "export", "--out", tmp_path / "joint", "--json")
    assert joined.code == 0, joined.err
    assert [source["network"] for source in joined.json["sources"]] == [RIVAL, "network"]
    compared = command("compare", folder, "--seconds", "0.01", "--json", "--quiet")
    assert compared.code == 0, compared.err
    assert command("describe", folder, "--json").json["chosen"]["slug"] == RIVAL
