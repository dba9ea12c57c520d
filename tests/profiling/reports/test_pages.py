"""The pages of a report: what they show, that nothing in them can be mistaken for code, and that figures are plotly's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from autoformer.escaping import markdown
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.run_page import build_report, figures
from tests.support.pages import Page
from tests.support.run_folder import make_run

HIDDEN = "\x1b[2J\u202egnp.exe\u200b"  # clears a terminal, turns the direction of writing, has no width
HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("pages") / "run")
    build_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose classes, source, file names and reasons are written by someone who means harm."""
    folder = make_run(
        tmp_path_factory.mktemp("hostile") / "run",
        classes=(HOSTILE, "a|b", HIDDEN, "![](http://x/y.png)", *"456789"),
        source=f"data {HOSTILE}",
        int8_name="<b onmouseover=alert(3)>.onnx",
        skip_reason=f"because {HOSTILE}\n| of | this",
    )
    build_report(folder)
    return folder


# --- HTML --------------------------------------------------------------------------------------------------------


def test_tables_stand_in_the_page_without_any_script(page: Page) -> None:
    assert ["ONNX fp32", "98.3 %", "96.9 to 99.1 %", "531 of 540"] in page.rows
    assert ["supernet weights, as inherited", "92.6 %", "90.1 to 94.5 %", "500 of 540"] in page.rows
    assert any(row[0] == "latency" and row[4:6] == ["81 %", "within budget"] for row in page.rows)
    assert ["all steps", "1 min 54 s"] in page.rows  # 113.7 s by hand
    assert any(row[:2] == ["train", "987"] for row in page.rows)


def test_the_page_says_how_the_choice_was_made_and_what_is_missing(page: Page) -> None:
    for sentence in (
        "2 of the 12, the best included, are not significantly different from the best",
        "the one of them with the fewest FLOPs was chosen",
        "such scores are optimistic",
        "int8 names another class than fp32 on 3 of 540 test images, 0.6 % [0.2, 1.6]",
        "Energy, memory, the first inference",
        "this is one run, with seed 3",
        "autoformer run",
    ):
        assert sentence in page.text


def test_the_page_loads_nothing(page: Page) -> None:
    page.check_it_loads_nothing()


def test_names_from_files_never_become_elements_or_script(hostile: Path) -> None:
    text = (hostile / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.scripts) == 3  # the figures, plotly, the page's own
    assert not [attrs for tag, attrs in page.elements if tag == "img" or any(name.startswith("on") for name in attrs)]
    assert HOSTILE in page.text  # shown letter by letter
    assert "<" not in page.scripts[0]


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_letters_that_do_not_show_are_escaped(hostile: Path, name: str) -> None:
    text = (hostile / name).read_text(encoding="utf-8")
    text = text if name == "report.md" else re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)  # plotly's and the page's
    assert not {"\x1b", "\u202e", "\u200b"} & set(text)
    assert "u202egnp.exe" in text


def test_hover_texts_show_names_letter_by_letter(hostile: Path) -> None:
    plots = json.loads(Page((hostile / "report.html").read_text(encoding="utf-8")).scripts[0])
    names = [trace["name"] for figure in plots if figure["name"] == "latency" for trace in figure["views"][0]["plot"]["data"]]
    assert names[1] == "&lt;b onmouseover=alert(3)&gt;.onnx (onnxruntime-cpu)"  # plotly reads a small HTML


# --- Markdown ----------------------------------------------------------------------------------------------------


def test_markdown_has_the_tables_of_the_page(folder: Path, page: Page) -> None:
    lines = (folder / "report.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    for row in page.rows:
        assert [markdown(cell) for cell in row] in cells


@pytest.mark.parametrize("which", ["folder", "hostile"])
def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head(which: str, request: pytest.FixtureRequest) -> None:
    text = (request.getfixturevalue(which) / "report.md").read_text(encoding="utf-8")
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) > 10
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_markdown_holds_no_html_from_names(hostile: Path) -> None:
    text = (hostile / "report.md").read_text(encoding="utf-8").partition("## Do it again")[0]  # the rest is code
    assert not re.findall(r"<\s*/?\s*[a-zA-Z]", text)


# --- figures -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return Run.load(folder)


def test_plotly_knows_every_property_of_the_figures(run: Run) -> None:
    import plotly.graph_objects as plotly

    found = figures(run)
    drawn = ["candidates", "progress", "blocks", "shapes", "confusion", "supernet", "finetune", "latency", "timeline", "table"]
    assert [figure.name for figure in found] == drawn
    for figure in found:
        for plot in figure.views.values():
            plotly.Figure(plot)  # raises on a property that plotly does not have


def test_a_distribution_rises_to_all_runs_and_halves_at_the_median(run: Run) -> None:
    trace = next(figure for figure in figures(run) if figure.name == "latency").views[""]["data"][0]
    stats = run.profile.measurements[0].stats
    assert trace["y"] == sorted(trace["y"])
    assert (trace["x"][0], trace["x"][-1], trace["y"][-1]) == pytest.approx((stats.min_ms, stats.max_ms, 100), rel=1e-4)
    assert trace["x"][trace["y"].index(50)] == pytest.approx(stats.p50_ms, rel=1e-4)


def test_a_run_without_latency_limit_has_no_figure_of_a_table(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", limit_ms=None)
    report: dict[str, Any] = build_report(folder)
    found = figures(Run.load(folder))
    assert "table" not in [figure.name for figure in found]
    assert list(found[0].views) == ["FLOPs", "Parameters"]
    assert report["latency_table"] is None
