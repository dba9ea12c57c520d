"""Small data and one small finished run that many tests look at."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engines import graph, install

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


def draw_images(root: Path, classes: tuple[str, ...] = ("circle", "cross", "stripes"), each: int = 14, size: int = 20) -> Path:
    """A folder of colour images that a small network can tell apart: a hue and a pattern per class, with noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:size, 0:size]
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(each):
            pixels = rng.integers(0, 80, (size, size, 3))
            mask = ((rows * (number + 1) + columns + index) // 4) % 2 == 0
            pixels[mask, number % 3] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index:03d}.png")
    return root


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images") / "shapes")


@pytest.fixture(scope="session")
def latency_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored table for the digits' micro space, as if measured: 0.05 ms and 50 ms per GFLOP."""
    from autoformer.cost import LatencyQualification, count_flops
    from autoformer.profiling.device import DeviceFacts
    from autoformer.profiling.latency_table import LatencyTable
    from autoformer.space import SearchSpace
    from tests.small_spaces import designed

    space = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
    means = LatencyQualification(statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device="a test")
    measured = [(a, 0.05 + 50 * count_flops(a, space) / 1e9) for a in designed(space, 6)]
    path = tmp_path_factory.mktemp("table") / "table.json"
    LatencyTable.fit(space, means, measured, device=DeviceFacts.collect()).save(path)
    return path


SHORT = (
    "train.epochs=4", "train.evaluate_every=2", "finetune.epochs=2", "search.population=6", "search.generations=2",
    "search.parents=3", "search.mutated=3", "search.crossed=3", "export.calibration_images=64", "profile.seconds=0.2",
)  # fmt: skip
QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"


def shortened(latency_table: Path) -> list[str]:
    """The options that make a run of the quickstart recipe a matter of seconds."""
    settings = [*SHORT, f"profile.table={latency_table}", "export.max_disagreement=0.2"]
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, latency_table: Path) -> Path:
    """A short run of the quickstart recipe through the command line, measured once however unsteady this machine is."""
    from autoformer.profiling.latency import profile_until_valid
    from tests.commands import command

    out = tmp_path_factory.mktemp("runs") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoformer.cli.chain.profile_until_valid", partial(profile_until_valid, attempts=1))
        answer = command("run", QUICKSTART, "--out", out, "--quiet", *shortened(latency_table))
    assert answer.code == 0, answer.err
    return out
