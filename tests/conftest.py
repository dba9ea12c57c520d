"""Small data and one small finished run that many tests look at."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.engines import graph, install
from tests.support.short_runs import run_shortened, write_latency_table
from tests.support.small_images import draw_images

__all__ = ["graph", "install"]  # fixtures

os.environ.setdefault("COLUMNS", "160")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _libraries_are_freed_at_the_end() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _what_was_imported_is_no_garbage() -> None:
    """Every measurement collects garbage first; looking through all that torch keeps would take it half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images") / "shapes")


@pytest.fixture(scope="session")
def latency_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_latency_table(tmp_path_factory.mktemp("table") / "table.json")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, latency_table: Path) -> Path:
    return run_shortened(tmp_path_factory.mktemp("runs") / "digits", latency_table)
