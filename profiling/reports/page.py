"""A page as HTML, Markdown or JSON: the one writer of every report and comparison.

The HTML holds everything it needs, plotly's script included, and its content security policy lets it load nothing; all
texts from files are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from autoformer.files import replacing
from autoformer.profiling.reports.blocks import TONES, Figure, Headline, Section

TEMPLATES = Path(__file__).parent


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
