"""The report of a run: one offline HTML page, the same as Markdown, and its values as JSON.

The page holds everything it needs, plotly's script included, and its content security policy lets it load nothing; all
texts from files are escaped. `report.json` is written last: a run that has it is finished.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from autoformer.cost import show
from autoformer.errors import CheckpointError
from autoformer.files import replacing, write_json
from autoformer.metric import WORDS
from autoformer.profiling.reports.blocks import TONES, Figure, Headline, Section
from autoformer.profiling.reports.content import FORMAT, content
from autoformer.profiling.reports.figures import figures
from autoformer.profiling.reports.latency import main_measurement
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.sections import headline, sections
from autoformer.profiling.reports.tables import networks
from autoformer.profiling.reports.wording import latency_text, limit_words, percent, readings_words, score_text, short_source

TEMPLATES = Path(__file__).parent
MOST_LINES = 15  # of the summary


def build_report(run_folder: Path) -> dict[str, Any]:
    """Writes `report.html`, `report.md`, `recipe.yaml` and at last `report.json` into the folder of a run; gives the JSON.

    The same folder gives the same files. Raises `CheckpointError` naming the file that is missing or damaged.
    """
    run = Run.load(run_folder)
    report = content(run)
    drawn = figures(run)
    main = main_measurement(run).name
    _write_text(render_html(report, drawn, main), run_folder / "report.html")
    _write_text(render_markdown(report, main), run_folder / "report.md")
    recipe = "# The resolved recipe of this run; every setting, defaults included.\n"
    _write_text(recipe + yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True), run_folder / "recipe.yaml")
    write_json(report, run_folder / "report.json")
    return report


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """The answer in at most 15 lines for a terminal, from the content of `report.json`.

    Raises `CheckpointError` for a report of another format.
    """
    if report.get("format") != FORMAT:
        raise CheckpointError(f"report has format {report.get('format')!r}, expected {FORMAT!r}; build it again")
    chosen = report["chosen"]
    lines = [
        f"found {chosen['slug']} for {short_source(report['source'])} (seed {report['seed']}): {chosen['words']}",
        *(f"{limit_words(limit)}: {_found(limit)}, {limit['met']}" for limit in report["budget"]),
    ]
    if not report["budget"]:
        lines.append("budget: no limits were set")
    images = report["test"]["onnx fp32"]["images"]
    scores = "; ".join(f"{networks(name)} {score_text(report['test'][name])}" for name in _order(report["test"]))
    lines.append(f"{WORDS[report['metric']]} on {images} test images: {scores}")
    lines.append(_int8_line(report))
    search = report["search"]
    confirmed = search["compared"]["chosen"]["confirmed"]
    again = "" if confirmed is None else f"; on {confirmed['images']} images that took no part in it: {score_text(confirmed)}"
    lines.append(
        f"{report['tied']} of {report['candidates']} candidates cannot be told from the best on "
        f"{search['images']} search images; chosen: {search['choose']}{again}"
    )
    lines.append(readings_words(report))
    latencies = [f"{name}: {latency_text(stats)} p50, {stats['verdict']}" for name, stats in report["latency"].items()]
    skipped = [f"{item['what']} {item['status']}: {item['reason']}" for item in report["skipped"] if item["what"] != "ONNX int8"]
    files = "; ".join(file["path"] for file in report["files"].values() if "sha256" in file)
    end = [f"files: {files}"] if files else []
    room = MOST_LINES - len(lines) - len(end)
    return lines + _within(latencies, max(1, room - len(skipped))) + _within(skipped, max(1, room - len(latencies))) + end


def _within(lines: list[str], most: int) -> list[str]:
    """At most `most` lines; what does not fit is counted in the last."""
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], f"{lines[most - 1]} (and {len(lines) - most} more in the report)"]


def _found(limit: Mapping[str, Any]) -> str:
    if limit["measure"] != "latency_ms":
        return show(limit["measure"], limit["found"])
    if limit["found"] is None:
        return "not measured"
    return latency_text({"p50_ms": limit["found"], "p50_low_ms": limit["low"], "p50_high_ms": limit["high"]})


def _order(test: Mapping[str, Any]) -> list[str]:
    known = [name for name in ("inherited", "finetuned", "onnx fp32", "onnx fp16", "onnx int8") if name in test]
    return known + [name for name in test if name not in known]


def _int8_line(report: Mapping[str, Any]) -> str:
    paired = report["int8_disagreement"]
    if paired is None:
        return f"int8 {report['int8']['status']}: {report['int8']['reason']}"
    share = percent(paired["share"], paired["low"], paired["high"])
    advice = f"; {report['int8']['advice']}" if report["int8"]["advice"] else ""
    different = f"another class than fp32 on {paired['different']} of {paired['images']}, {share}"
    return f"int8 {report['int8']['status']}: {different}{advice}"


# --- pages -------------------------------------------------------------------------------------------------------


def render_html(report: Mapping[str, Any], drawn: list[Figure], main: str) -> str:
    """The page of one run. `main` names the measurement of the headline."""
    parts = sections(report, [figure.name for figure in drawn])
    return page_html(headline(report, main), parts, drawn, report["version"])


def page_html(head: Headline, parts: Sequence[Section], drawn: Sequence[Figure], version: str) -> str:
    """A page of these sections and figures. It holds everything it needs and asks nothing of the network."""
    pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    plotly, script = get_plotlyjs(), pages.get_template("report.js.j2").render()
    assert "</script" not in plotly, "plotly's script would end its own element"
    return pages.get_template("report.html.j2").render(
        headline=head,
        sections=parts,
        figures={figure.name: figure for figure in drawn},
        figures_json=script_json([figure.to_dict() for figure in drawn]),
        tones=TONES,
        version=version,
        plotly=plotly,
        script=script,
        hashes=[_script_hash(plotly), _script_hash(script)],
    )


def render_markdown(report: Mapping[str, Any], main: str) -> str:
    """The same sentences and tables as Markdown."""
    return page_markdown(headline(report, main), sections(report, []), report["version"])


def page_markdown(head: Headline, parts: Sequence[Section], version: str) -> str:
    """Sections as Markdown, without figures."""
    pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined, trim_blocks=True)
    pages.filters["md"] = markdown
    return pages.get_template("report.md.j2").render(headline=head, sections=parts, version=version)


def markdown(text: str) -> str:
    """`text` as Markdown shows it letter by letter, on one line."""
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or open another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _script_hash(script: str) -> str:
    """What a content security policy calls an inline script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _write_text(text: str, path: Path) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
