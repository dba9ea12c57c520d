"""A written page, as a reader of HTML sees it."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements with their attributes, table rows, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.words.append(data)
            if self.inside in ("td", "th", "span") and self.rows and self.rows[-1]:
                self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def check_it_loads_nothing(self) -> None:
        """Its policy permits nothing but its own scripts, by their digests, and no element names an address."""
        policy = next(attrs["content"] for _, attrs in self.elements if attrs.get("http-equiv") == "Content-Security-Policy")
        assert policy is not None
        assert "default-src 'none'" in policy
        allowed = set(re.findall(r"'sha256-([^']+)'", policy))
        made = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in self.scripts[1:]}
        assert allowed == made
        for _, attrs in self.elements:
            for name in ("src", "href", "action", "data", "poster", "srcset"):
                assert not (attrs.get(name) or "").startswith(("http", "//")), attrs
