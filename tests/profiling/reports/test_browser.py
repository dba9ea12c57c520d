"""The report in a real browser: it draws, it complains about nothing, it fits a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from autoformer.files import write_json
from autoformer.profiling.profiles.comparison import marked, with_ratios
from autoformer.profiling.profiles.regression import compare_profiles
from autoformer.profiling.reports.comparison_page import comparison_page, regression_page
from autoformer.profiling.reports.joint_page import build_joint_report
from autoformer.profiling.reports.page import save
from autoformer.profiling.reports.run_page import build_report
from tests.support.batch_sweeps import profile
from tests.support.comparisons import comparison, rows_of
from tests.support.layer_profiles import PROFILE
from tests.support.races import after_race, make_race
from tests.support.run_folder import SPACE, make_run

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed")]
OFFLINE = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip

# The charset is declared: the browser would guess it from the first bytes that arrive, and a wrong guess changes the
# scripts and with them the digests the page allows.
# A window of a browser cannot be as narrow as a phone, a frame can. The frame is of the same origin, so it can be asked.
FRAME = """<!doctype html><meta charset="utf-8"><body>
<iframe width="{width}" height="900" srcdoc="{page}"></iframe><script>
addEventListener("load", () => setTimeout(() => {{
  const frame = document.querySelector("iframe"), page = frame.contentDocument, root = page.documentElement;
  const found = {{ overflow: root.scrollWidth - root.clientWidth, width: root.clientWidth }};
  const wider = [...page.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth);
  found.wider = wider.map((box) => box.getAttribute("aria-label"));
  const lines = (cell) => {{
    const range = page.createRange(); range.selectNodeContents(cell);
    return new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size;
  }};
  const firsts = [...page.querySelectorAll("tbody th")].filter((cell) => /^[a-z]+$/i.test(cell.textContent.trim()));
  found.torn = firsts.filter((cell) => lines(cell) > 1).map((cell) => cell.textContent);
  found.drawn = [...page.querySelectorAll(".plot")].filter((plot) => plot.querySelector("svg.main-svg")).length;
  found.plots = page.querySelectorAll(".plot").length;
  const buttons = [...page.querySelectorAll(".switch button")];
  found.switches = buttons.map((button) => button.textContent);
  const axis = () => page.querySelector("#figure-candidates .xtitle").textContent;
  found.before = axis();
  buttons[1].click();
  found.after = axis();
  const bottom = (selector) => page.querySelector(selector).getBoundingClientRect().bottom;
  found.bottom = {{ answer: bottom(".answer"), numbers: bottom(".numbers"), verdicts: bottom(".verdicts") }};
  found.bottom.table = bottom("header .scroll");
  const style = (selector) => frame.contentWindow.getComputedStyle(page.querySelector(selector));
  found.rows = {{ wide: style(".wide tr").display, compact: style(".compact tr").display }};
  found.cell = style("#figure-blocks .heatmap-label text").fill;
  found.dark = frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches;
  found.background = frame.contentWindow.getComputedStyle(page.body).backgroundColor;
  document.body.textContent = JSON.stringify(found);
}}, 3000));
</script>"""
FRAME_WITHOUT_SCRIPTS = """<!doctype html><meta charset="utf-8"><body>
<iframe width="800" sandbox="allow-same-origin" srcdoc="{page}"></iframe><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const found = {{ text: page.body.innerText, tables: page.querySelectorAll("table").length }};
  found.heights = [...page.querySelectorAll(".plot")].map((plot) => plot.offsetHeight);
  document.body.textContent = JSON.stringify(found);
}});
</script>"""


def browse(page: Path, folder: Path, *flags: str) -> tuple[str, str]:
    """The document as it is after its scripts ran, and what the browser logged."""
    assert BROWSER is not None
    command = [BROWSER, *OFFLINE, f"--user-data-dir={folder / 'profile'}", *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout, done.stderr


def measured_in_a_frame(report: Path, folder: Path, width: int, *flags: str) -> tuple[dict[str, Any], str]:
    """What the page says about itself in a frame of `width` pixels, and what the browser logged."""
    frame = folder / "frame.html"
    page = html.escape(report.read_text(encoding="utf-8"))
    frame.write_text(FRAME.format(width=width, page=page), encoding="utf-8")
    document, log = browse(frame, folder, *flags)
    found = re.search(r"<body>(\{.*\})</body>", document, re.DOTALL)
    assert found, f"the page did not answer: {log[-2000:]}"
    answer: dict[str, Any] = json.loads(html.unescape(found[1]))
    return answer, log


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("browser") / "run", classes=("</script><img src=x>" * 5, *"123456789"))
    build_report(folder)
    return folder / "report.html"


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_page_draws_its_figures_and_fits_its_window(report: Path, tmp_path: Path, width: int) -> None:
    found, log = measured_in_a_frame(report, tmp_path, width)
    assert found["width"] <= width
    assert found["overflow"] == 0
    assert found["wider"] == [], "a table is wider than its box"
    assert found["torn"] == [], "a word is broken"
    assert found["drawn"] == found["plots"] == 10
    assert "CONSOLE" not in log, log


@pytest.mark.parametrize(
    ("width", "height", "whole"), [(1280, 800, ("answer", "numbers", "verdicts", "table")), (390, 844, ("answer", "numbers"))]
)
def test_the_first_screen_holds_the_file_to_ship_its_numbers_and_verdicts(
    report: Path, tmp_path: Path, width: int, height: int, whole: tuple[str, ...]
) -> None:
    """Of a laptop and of a phone. The numbers are accuracy, latency with its limit, size and FLOPs."""
    found, _ = measured_in_a_frame(report, tmp_path, width)
    assert {name: bottom for name, bottom in found["bottom"].items() if name in whole and not 0 < bottom <= height} == {}


def test_the_switch_changes_the_cost_that_is_shown(report: Path, tmp_path: Path) -> None:
    found, _ = measured_in_a_frame(report, tmp_path, 800)
    assert found["switches"] == [
        "FLOPs", "Parameters", "Predicted latency", "measured against predicted", "against FLOPs",
    ]  # fmt: skip
    assert (found["before"], found["after"]) == ("multiply-adds of one image", "parameters")


def test_only_tables_of_short_cells_stay_tables_on_a_phone(report: Path, tmp_path: Path) -> None:
    found, _ = measured_in_a_frame(report, tmp_path, 390)
    assert found["rows"] == {"wide": "block", "compact": "table-row"}


def test_the_page_follows_the_dark_scheme(report: Path, tmp_path: Path) -> None:
    found, log = measured_in_a_frame(report, tmp_path, 800, "--blink-settings=preferredColorScheme=0")
    assert found["dark"]
    red, green, blue = (int(value) for value in re.findall(r"\d+", found["background"])[:3])
    assert max(red, green, blue) < 64
    assert min(int(value) for value in re.findall(r"\d+", found["cell"])[:3]) > 192  # letters on the cells of a heat map
    assert "CONSOLE" not in log, log


def hosts_asked(page: Path, folder: Path) -> tuple[set[str], str]:
    """The hosts the browser wanted something from, its maker's own excepted, and what it logged."""
    net = folder / "net.json"
    _, log = browse(page, folder, f"--log-net-log={net}")
    hosts = set(re.findall(r'"url":"(?:https?|wss?)://([^/":]+)', net.read_text(encoding="utf-8")))
    return {host for host in hosts if not host.endswith((".google.com", ".googleapis.com"))}, log


def test_the_page_asks_nothing_of_the_network(report: Path, tmp_path: Path) -> None:
    control = tmp_path / "control.html"
    control.write_text('<img src="https://example.invalid/picture.png">')
    assert hosts_asked(control, tmp_path)[0] == {"example.invalid"}
    hosts, log = hosts_asked(report, tmp_path)
    assert not hosts
    assert "CONSOLE" not in log, log  # the page's policy would log whatever it had to refuse


def test_all_tables_are_there_with_scripts_blocked(report: Path, tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"
    page = html.escape(report.read_text(encoding="utf-8"))
    frame.write_text(FRAME_WITHOUT_SCRIPTS.format(page=page), encoding="utf-8")
    document, _ = browse(frame, tmp_path)
    found = re.search(r"<body>(\{.*\})</body>", document, re.DOTALL)
    assert found, document[-500:]
    answer = json.loads(html.unescape(found[1]))
    assert "98.3 %" in answer["text"]
    assert "The figures need scripts." in answer["text"]
    assert answer["heights"] == [0] * 10  # no empty frames where figures would be
    assert answer["tables"] > 10


JOINT = """<!doctype html><meta charset="utf-8"><body>
<iframe width="{width}" height="900" srcdoc="{page}"></iframe><script>
addEventListener("load", () => setTimeout(() => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const found = {{ overflow: root.scrollWidth - root.clientWidth, width: root.clientWidth }};
  const wider = [...page.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth);
  found.wider = wider.map((box) => box.getAttribute("aria-label"));
  found.drawn = [...page.querySelectorAll(".plot")].filter((plot) => plot.querySelector("svg.main-svg")).length;
  found.plots = page.querySelectorAll(".plot").length;
  document.body.textContent = JSON.stringify(found);
}}, 3000));
</script>"""


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of several sources, of a comparison of networks, of one of two profiles, and of a run with a race."""
    folder = tmp_path_factory.mktemp("others")
    hostile = "</script><img src=x>" * 3
    profile(1, 2.0, name=hostile).save(folder / "latency.json")
    write_json(PROFILE.to_dict(), folder / "layers.json")
    build_joint_report([make_run(folder / "run"), folder / "latency.json", folder / "layers.json"], folder / "report")
    rows = rows_of({hostile: 1.0, "b" * 60: 1.5, "gpu": 90.0}, {hostile: 90, "b" * 60: 80, "gpu": 97, "untimed": 99})
    save(comparison_page(comparison(*marked(with_ratios(rows)))), folder / "compared.html")
    pair = [[profile(1, 10.0, name=hostile, samples=(9.9 * factor, 10.1 * factor))] for factor in (1, 1.2)]
    save(regression_page(compare_profiles(*pair)), folder / "regressions.html")
    raced = after_race(make_run(folder / "raced"), make_race(SPACE.smallest, winner="resnet"))
    build_report(raced)
    return {
        "race": raced / "report.html",
        "sources": folder / "report" / "report.html",
        "networks": folder / "compared.html",
        "profiles": folder / "regressions.html",
    }


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize(("which", "figures"), [("sources", 3), ("networks", 1), ("profiles", 1), ("race", 12)])
def test_every_page_that_lays_things_side_by_side_draws_fits_and_asks_for_nothing(
    which: str, figures: int, width: int, others: dict[str, Path], tmp_path: Path
) -> None:
    frame = tmp_path / "frame.html"
    page = html.escape(others[which].read_text(encoding="utf-8"))
    frame.write_text(JOINT.format(width=width, page=page), encoding="utf-8")
    document, log = browse(frame, tmp_path)
    answer = re.search(r"<body>(\{.*\})</body>", document, re.DOTALL)
    assert answer, log[-2000:]
    found = json.loads(html.unescape(answer[1]))
    assert found["width"] <= width
    assert found["overflow"] == 0
    assert found["wider"] == [], "a table is wider than its box"
    assert found["drawn"] == found["plots"] == figures  # of sources: distribution, timeline, time by block
    hosts, asked = hosts_asked(others[which], tmp_path)
    assert not hosts
    assert "CONSOLE" not in log + asked, log
