"""Warnings: ours are a line on stderr, those of libraries are not shown beside --quiet."""

from __future__ import annotations

import ast
import logging
import warnings

import pytest

from autoformer.cli import app
from autoformer.cli.console import warnings_as_lines
from autoformer.errors import AutoformerWarning
from tests.support.commands import command
from tests.support.source_tree import files


@pytest.mark.filterwarnings("default")
def test_a_warning_of_ours_is_a_line_and_one_of_a_library_is_not_shown_where_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def speak(**_: object) -> int:
        warnings.warn("step 3 is damaged;\ngoing on from step 2", AutoformerWarning, stacklevel=1)
        warnings.warn("This DataLoader will create 9 worker processes", UserWarning, stacklevel=1)
        library = logging.Logger("library")  # nobody has set it up
        library.warning("deprecated")
        return 0

    monkeypatch.setattr(app, "app", speak)
    ours = "warning: step 3 is damaged; going on from step 2\n"
    theirs = "warning: This DataLoader will create 9 worker processes\n"
    assert command("train", "--quiet").err == ours
    assert command("train").err == ours + theirs + "deprecated\n"


def test_warnings_are_as_before_after_the_block() -> None:
    before = (warnings.showwarning, logging.lastResort)
    with warnings_as_lines(quiet=True):
        assert warnings.showwarning is not before[0]
    assert (warnings.showwarning, logging.lastResort) == before


def test_every_warning_of_ours_says_that_it_is() -> None:
    calls = [
        node
        for path in files().values()
        if "warnings.warn(" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
    ]
    assert len(calls) > 3
    assert {ast.unparse(call.args[1]) for call in calls} == {"AutoformerWarning"}
