"""A latency table that is wrong by a known amount, and a measurer that knows the truth."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, count_flops
from autoformer.files import write_json
from autoformer.metric import score
from autoformer.profiling.measuring.measure import device_name
from autoformer.profiling.measuring.verdict import VALID, Verdict
from autoformer.profiling.tables.costs import TableCosts, within_margin
from autoformer.profiling.tables.limit import LatencyAnswer, Timing
from autoformer.profiling.tables.loop import Choose, LatencyQuestion, answer_latency
from autoformer.profiling.tables.table import LatencyTable
from autoformer.search.answer import StoredSearch
from autoformer.search.candidate import Candidate
from autoformer.search.record import FORMAT
from autoformer.search.result import conclude
from autoformer.space import SearchSpace
from tests.support.measurements import FACTS
from tests.support.small_spaces import designed

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
HERE = MeasurementConditions(
    statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device=device_name(FACTS, "onnxruntime-cpu", 1)
)
LABELS = np.arange(400) % 10
LIMIT_MS = 0.22  # most of the space is inside, and some is not
LIMIT = Budget(max_latency_ms=LIMIT_MS)


def truth(architecture: Architecture) -> float:
    return 0.1 + 60 * count_flops(architecture, SPACE) / 1e9


def table_of(latency_ms: Callable[[Architecture], float]) -> LatencyTable:
    measured = [(network, latency_ms(network)) for network in designed(SPACE, 8)]
    return LatencyTable.fit(SPACE, HERE, measured, device=FACTS)


def candidate(number: int, architecture: Architecture, share: float, table: LatencyTable) -> Candidate:
    """Right on so many of the images; which ones depends on the architecture alone."""
    order = np.random.default_rng(number).permutation(400)
    right = np.isin(np.arange(400), order[: round(400 * share)])
    predictions = np.where(right, LABELS, (LABELS + 1) % 10)
    cost = TableCosts(SPACE, table)(architecture)
    return Candidate(
        number=number,
        generation=0,
        architecture=architecture,
        cost=cost,
        predictions=predictions,
        score=score(predictions, LABELS),
    )


def stored(folder: Path, table: LatencyTable, choose: Choose = "best", seed: int = 0) -> StoredSearch:
    """A finished search of 120 random networks, larger ones better on the whole; all of the space, as another budget finds it."""
    rng, found = random.Random(seed), dict[Architecture, None]()
    while len(found) < 120:
        found[SPACE.sample(rng)] = None
    most = count_flops(SPACE.largest, SPACE)
    every = [
        candidate(number, network, 0.4 + 0.4 * count_flops(network, SPACE) / most + rng.uniform(-0.03, 0.03), table)
        for number, network in enumerate(found)
    ]
    record = {
        "format": FORMAT, "space": SPACE.to_dict(), "latency_qualification": asdict(HERE), "latency_margin": table.margin,
        "budget": {}, "config": {"choose": choose, "method": "random"}, "seed": seed,
        "result": conclude(every, LABELS, choose).to_dict(),
    }  # fmt: skip
    write_json(record, folder / "search.json")
    return StoredSearch(folder)


class Measurer:
    """Gives the true time with a little noise and an interval of 0.4 %; keeps what it was asked."""

    def __init__(
        self,
        true_ms: Callable[[Architecture], float] = truth,
        *,
        noise: float = 0.0,
        verdict: Verdict = Verdict(VALID),
        seed: int = 0,
    ) -> None:
        self.true_ms, self.noise, self.verdict, self.rng = true_ms, noise, verdict, random.Random(seed)
        self.asked: list[list[Architecture]] = []

    def __call__(self, wanted: Sequence[Architecture]) -> Mapping[Architecture, Timing]:
        self.asked.append(list(wanted))
        return {
            network: timing(self.true_ms(network) * self.rng.gauss(1, self.noise), verdict=self.verdict) for network in wanted
        }


def timing(time_ms: float, width: float = 0.004, verdict: Verdict = Verdict(VALID)) -> Timing:
    low, high = time_ms * (1 - width / 2), time_ms * (1 + width / 2)
    return Timing(measured_ms=time_ms, low_ms=low, high_ms=high, runs=500, verdict=verdict)


def answered(
    folder: Path, table: LatencyTable, measurer: Measurer, choose: Choose = "best", stated: Budget = LIMIT, **options: Any
) -> LatencyAnswer:
    search = stored(folder, table, choose)
    first = search.answer(within_margin(stated, table.margin), TableCosts(SPACE, table), choose).result.chosen
    facts = options.pop("facts", FACTS)
    question = LatencyQuestion(stated=stated, first=first.architecture, choose=choose, **options)
    return answer_latency(search, table, question, folder, measurer=measurer, facts=facts)
