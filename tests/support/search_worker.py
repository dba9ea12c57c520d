"""One process of a shared search on scores that a formula gives.

Waits for FOLDER/go, notes every evaluation in FOLDER/PID.log as it begins, and prints JSON when the search ends.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import Budget, ExactCosts, count_flops
from autoformer.drawing.budgeted import Candidates
from autoformer.search.config import SearchConfig
from autoformer.search.database import Study
from autoformer.search.loop import search
from autoformer.space import SearchSpace

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
CONFIG = SearchConfig(population=8, generations=3, parents=3, mutated=4, crossed=4, uniform_shapes=2, rungs=(0.25, 1))
LABELS = np.arange(200) % 10


def pretend(architecture: Architecture, images: slice = slice(None)) -> NDArray[np.int64]:
    share = 0.5 + 0.4 * count_flops(architecture, SPACE) / count_flops(SPACE.largest, SPACE)
    right = np.random.default_rng(int(architecture.digest[:8], 16)).random(len(LABELS)) < share
    return np.where(right, LABELS, (LABELS + 1) % 10)[images]


def work(url: str, folder: Path, seconds: float) -> None:
    """One evaluation takes `seconds`."""

    def evaluate(architecture: Architecture, images: slice) -> NDArray[np.int64]:
        with (folder / f"{os.getpid()}.log").open("a") as log:
            log.write(f"{architecture.digest}/{images.start}\n")
        time.sleep(seconds)
        return pretend(architecture, images)

    candidates = Candidates(SPACE, ExactCosts(SPACE), Budget())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = Study(url, "shared")
        (folder / f"{os.getpid()}.ready").touch()
        while not (folder / "go").exists():
            time.sleep(0.005)
        began = time.perf_counter()
        result = search(candidates, evaluate, LABELS, CONFIG, study)
    print(json.dumps({"seconds": time.perf_counter() - began, "result": result.to_dict()}))
