"""Text of others, shown: nothing hidden on terminals, letter by letter in Markdown, and the same values in JSON."""

from __future__ import annotations

import io
import json
import sys

import pytest
from markdown_it import MarkdownIt

from autoformer.escaping import json_text, markdown, one_line, take_any_letter, visible

NAMES = (
    "</script><img src=x onerror=alert(1)>", "![](http://x/y.png)", "[a](http://x)", "`rm`", "a|b", "**bold** _thin_ ~~gone~~",
    "<http://x/y>", "&lt; &copy;", "# head", "- item", "+ item", "---", "===", "\\*", "$x$", "a\\|b", "| a | b |",
    "[a [b] c](http://x)", "[a][b]", "[a]: /x", "![a][b]", "[ ] done", "[[a]](b)",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),  # ESC and BEL of ASCII
        ("\x9b31m", r"\x9b31m"),  # the one-byte form of ESC [
        ("\u202egnp.exe", r"\u202egnp.exe"),  # RIGHT-TO-LEFT OVERRIDE
        ("a\u200bb\ufeff\u2066", r"a\u200bb\ufeff\u2066"),  # ZERO WIDTH SPACE, BOM, LEFT-TO-RIGHT ISOLATE
        ("a\nb\tc\u2028", r"a\nb\tc\u2028"),
        ("\udcff", r"\udcff"),  # a byte of a file name that is not UTF-8
        ("\U000e0041", r"\U000e0041"),  # a tag letter
        ("Ägypten 日本語 עברית 🙂\u3000a\xa0b", "Ägypten 日本語 עברית 🙂\u3000a\xa0b"),
    ],
)
def test_letters_that_do_not_show_are_written_as_python_does_and_others_are_kept(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_line_ends_are_kept_where_asked_and_become_spaces_on_one_line() -> None:
    assert visible("a\n\x1b", keep="\n") == "a\n\\x1b"
    assert one_line("a\n\n b\r\u2028c\x1b") == "a b c\\x1b"


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_names_letter_by_letter(name: str) -> None:
    reader = MarkdownIt("commonmark").enable("table").enable("strikethrough")
    (paragraph, *_) = reader.parse(markdown(name))
    assert paragraph.type == "paragraph_open"
    inline = reader.parse(markdown(name))[1]
    assert {child.type for child in inline.children or ()} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children or ()) == name
    rows = [token for token in reader.parse(f"| a | b |\n|---|---|\n| {markdown(name)} | c |") if token.type == "inline"]
    cell = rows[2]
    assert len(rows) == 4
    assert "".join(child.content for child in cell.children or ()) == name


def test_brackets_that_are_of_no_link_are_as_they_were_typed() -> None:
    """A command that is copied out of the text, and an interval."""
    assert markdown("pip install 'autoformer-toolchain[tensorrt]' (+0.0 [-1.2, +1.2] points)").count("\\") == 0


def test_bare_addresses_become_no_links() -> None:
    assert markdown("http://x.y and www.x.y") == r"http\://x.y and www\.x.y"  # as GitHub and others link them unasked


def test_json_means_the_same_and_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a\x1b\u202e": ["\x7f\x9b", "é", "\U000e0041", "line\nline"]}
    text = json_text(value)
    assert json.loads(text) == value
    assert "é" in text
    assert text.replace("\n", "").isprintable()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert json_text(value).isascii()


def test_letters_that_an_encoding_lacks_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    take_any_letter()
    print("≤ é")
    sys.stdout.flush()
    assert raw.getvalue() == b"\\u2264 \xe9\n"
