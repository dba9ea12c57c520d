"""Small data and one small finished run that many tests look at."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.support.engines import graph, install
from tests.support.short_runs import QUICKSTART, shortened
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
    """A stored table for the digits' micro space, as if measured: 0.05 ms and 50 ms per GFLOP."""
    from autoformer.cost import MeasurementConditions, count_flops
    from autoformer.profiling.measuring.device import DeviceFacts
    from autoformer.profiling.tables.table import LatencyTable
    from autoformer.space import SearchSpace
    from tests.support.small_spaces import designed

    space = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
    means = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device="a test")
    measured = [(a, 0.05 + 50 * count_flops(a, space) / 1e9) for a in designed(space, 6)]
    path = tmp_path_factory.mktemp("table") / "table.json"
    LatencyTable.fit(space, means, measured, device=DeviceFacts.collect()).save(path)
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, latency_table: Path) -> Path:
    """A short run of the quickstart recipe through the command line, measured once however unsteady this machine is."""
    from autoformer.profiling.profiles.latency import profile_until_valid
    from tests.support.commands import command

    out = tmp_path_factory.mktemp("runs") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoformer.cli.chain.chain.profile_until_valid", partial(profile_until_valid, attempts=1))
        answer = command("run", QUICKSTART, "--out", out, "--quiet", *shortened(latency_table))
    assert answer.code == 0, answer.err
    return out
