"""Small data and one small finished run that many tests look at."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from autoformer.cli.chain import helpers
from autoformer.profiling.profiles import latency
from autoformer.profiling.tables import measuring
from tests.support.engines import graph, install
from tests.support.race_folders import write_race, write_search
from tests.support.short_runs import run_shortened, write_latency_table
from tests.support.small_images import draw_images

__all__ = ["graph", "install"]  # fixtures

os.environ.setdefault("COLUMNS", "160")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _a_cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Not the user's own; shared by the processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    os.environ["XDG_CACHE_HOME"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")


@pytest.fixture(autouse=True, scope="session")
def _races_in_one_process() -> None:
    """A run's race takes the idle cores; here there are none, since tests run side by side."""
    helpers.MOST_PROCESSES = 1


@pytest.fixture(autouse=True, scope="session")
def _files_are_timed_once() -> None:
    """Files and tables are timed until the machine is steady; beside other tests it never is."""
    latency.ATTEMPTS = measuring.ATTEMPTS = 1


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
    return made_once(tmp_path_factory, "table.json", write_latency_table)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, latency_table: Path) -> Path:
    """A copy of its own for each process of the tests."""
    made = made_once(tmp_path_factory, "digits", lambda out: run_shortened(out, latency_table))
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("runs") / "digits"))


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet, `super`, and a search of it, `search`, for races."""
    return made_once(tmp_path_factory, "searched", write_search)


@pytest.fixture(scope="session")
def finished_race(tmp_path_factory: pytest.TempPathFactory, searched: Path) -> Path:
    """A copy of its own for each process of the tests."""
    made = made_once(tmp_path_factory, "race", lambda out: write_race(out, searched))
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("races") / "race"))


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Path]) -> Path:
    """What `make` writes, made by the first process of the tests that asks; the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    place = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / name).exists():
            make(place / f"{name}.unfinished").rename(place / name)
    return place / name
