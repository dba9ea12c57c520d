"""Text from files, folders and other people's metadata, made safe for where it is shown: terminals, pages, Markdown.

A name may hold control sequences that repaint a terminal, marks that turn the direction of writing, or letters without width;
shown as they are, a person reads something else than what is there. The standard library alone: boards show texts too.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import Any

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # categories: control, format (direction, no width), surrogate, separators
# What begins a form, what ends the name of a link, and bare addresses; brackets that are of no link stay as they are.
MARKDOWN = re.compile(r"([\\`*_|~#$])|\](?=[(\[:])|(:)(?=//)|(?<=\bwww)(\.)", re.IGNORECASE)
LIST_OR_RULE = re.compile(r"[-+=](?=[\s=-]|$)")  # at the start of a paragraph


def visible(text: str, keep: str = "") -> str:
    r"""`text` with every letter that does not show escaped as Python writes it (`\x1b`, `\u202e`), those in `keep` apart."""
    if text.isprintable():
        return text
    return "".join(letter if letter in keep or not _is_hidden(letter) else _escape(letter) for letter in text)


def one_line(text: str) -> str:
    """`text` on one line, with single spaces and nothing hidden in it."""
    return visible(" ".join(text.split()))


def visible_json(document: str) -> str:
    r"""A JSON document with nothing hidden in its strings, which mean what they did: `\u001b` is JSON too."""
    if document.replace("\n", "").isprintable():
        return document
    return "".join(_escape_json(letter) if letter != "\n" and _is_hidden(letter) else letter for letter in document)


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """`value` as a JSON document for stdout, whatever its encoding, with nothing hidden in it."""
    takes_all = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    return visible_json(json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=not takes_all))


def take_any_letter() -> None:
    """Makes stdout and stderr escape what their encoding lacks, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def markdown(text: str) -> str:
    """`text` as Markdown shows it letter by letter, on one line; also in a cell of a table, and without turning into a link."""
    marked = MARKDOWN.sub(lambda found: f"\\{found[0]}", one_line(text))
    marked = marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"\\{marked}" if LIST_OR_RULE.match(marked) else marked


def _is_hidden(letter: str) -> bool:
    return not letter.isprintable() and unicodedata.category(letter) in HIDDEN


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _escape_json(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
