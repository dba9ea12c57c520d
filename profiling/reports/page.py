"""The one writer of pages, for reports and comparisons: HTML, Markdown, or JSON for programs.

The HTML holds everything it needs, plotly's script included, and its content security policy lets it load nothing; all
texts from files are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from autoformer import escaping
from autoformer.errors import DataError
from autoformer.files import replacing, write_json
from autoformer.profiling.reports.blocks import TONES, Page

TEMPLATES = Path(__file__).parent
SUFFIXES = (".html", ".md", ".json")


def check_suffix(path: Path, known: tuple[str, ...] = SUFFIXES) -> None:
    """Raises `DataError` unless `path` ends like a kind of file that is written."""
    if path.suffix not in known:
        raise DataError(f"{path} ends in {path.suffix!r}; expected one of {', '.join(known)}")


def save(page: Page, path: Path) -> None:
    """Writes the page as the ending of `path` says, whole or not at all. Raises `DataError` for another ending."""
    check_suffix(path)
    if path.suffix == ".json":
        write_json(page.values, path)
    else:
        write_text(html(page) if path.suffix == ".html" else markdown(page), path)


def write_text(text: str, path: Path) -> None:
    """Writes a text in UTF-8, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def html(page: Page) -> str:
    """The page for a browser. It holds everything it needs and asks nothing of the network."""
    pages = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=shown
    )
    plotly, script = get_plotlyjs(), pages.get_template("report.js.j2").render()
    assert "</script" not in plotly, "plotly's script would end its own element"
    return pages.get_template("report.html.j2").render(
        headline=page.headline,
        sections=page.sections,
        figures={figure.name: figure for figure in page.figures},
        figures_json=script_json([figure.to_dict() for figure in page.figures]),
        tones=TONES,
        version=page.version,
        plotly=plotly,
        script=script,
        hashes=[_script_hash(plotly), _script_hash(script)],
    )


def markdown(page: Page) -> str:
    """The same sentences and tables as Markdown, without figures."""
    pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=False, undefined=StrictUndefined, trim_blocks=True)
    pages.filters |= {"md": lambda text: escaping.markdown(str(text)), "code": shown}
    return pages.get_template("report.md.j2").render(headline=page.headline, sections=page.sections, version=page.version)


def shown(value: Any) -> Any:
    """A value of a template with nothing hidden in it; what is markup already stays."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else escaping.visible(value, keep="\n\t")


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or open another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _script_hash(script: str) -> str:
    """What a content security policy calls an inline script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
