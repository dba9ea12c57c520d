"""Benchmarks run rarely, so a name that moved would be found too late: what they import must be there."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.source_tree import ROOT

BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


def imported(source: str) -> Iterator[tuple[str, str]]:
    """Each name that a program takes out of this package, with its module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autoformer"):
            yield from ((str(node.module), alias.name) for alias in node.names)


def missing(source: str) -> list[str]:
    return [f"{module}.{name}" for module, name in imported(source) if not hasattr(importlib.import_module(module), name)]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path: Path) -> None:
    assert missing(path.read_text()) == []


def test_a_name_that_moved_is_seen() -> None:
    assert missing("from autoformer.metric import Score, nowhere") == ["autoformer.metric.nowhere"]
