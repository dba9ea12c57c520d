"""Latency in the loop: after a search the best few are measured for real, and the choice is repeated with what that says.

A round measures the chosen network and the next in the order of choice, those among them that the margin alone keeps out.
Where predictions and measurements disagree the table is corrected, by whichever predicts the measured networks better from
each other: one factor for all (what a different hour or runtime does), or a new fit with the networks added (what a wrong
slope needs). Then the choice is repeated among the stored evaluations, measured networks counting with the upper end of their
interval instead of a prediction, until the chosen network is itself measured.

Latency does not depend on the values of weights, so the networks have fresh ones and no supernet is needed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from autoformer.architecture import Architecture
from autoformer.cost import Budget, MeasuredCosts, MeasurementConditions, count_flops
from autoformer.errors import BudgetError, MeasurementError, MissingPackageError
from autoformer.files import json_digest
from autoformer.profiling.backends.of_spaces import BACKENDS, INSTANCES, Exporter, opened_networks
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.drift import ROUNDS as ROUNDS_OF_MEASURING
from autoformer.profiling.measuring.drift import measure_together
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, device_name, threads_of
from autoformer.profiling.measuring.order_statistics import MIN_SAMPLES_P99, VALID, WITHIN_BUDGET, interval_of
from autoformer.profiling.tables.correction import Model
from autoformer.profiling.tables.costs import PredictedCosts
from autoformer.profiling.tables.limit import FILE_NAME, FinalistNetwork, LatencyAnswer, LatencyRound, Timing
from autoformer.profiling.tables.speed_factor import anchors_of, speed_factor_of
from autoformer.profiling.tables.table import LatencyTable
from autoformer.progress import Progress, silent
from autoformer.search.answer import StoredSearch
from autoformer.search.candidate import ranked
from autoformer.search.result import SearchResult

ROUNDS = 3
FINALISTS = 5  # measured in a round: the chosen one and four more
ATTEMPTS = 3  # at a VALID measurement

Measurer = Callable[[Sequence[Architecture]], Mapping[Architecture, Timing]]


def answer_latency(
    stored: StoredSearch,
    table: LatencyTable,
    stated: Budget,
    out: Path,
    *,
    first: Architecture,
    choose: Literal["cheapest", "best"],
    config: MeasureConfig = MeasureConfig(),
    rounds: int = ROUNDS,
    finalists: int = FINALISTS,
    measurer: Measurer | None = None,
    facts: DeviceFacts | None = None,
    progress: Progress | None = None,
) -> LatencyAnswer:
    """Whether the network that `stored` offers keeps `stated` as measured here; writes `out/latency_answer.json`.

    `first` is what was chosen by `table` (less its margin). A finished answer to the same question in `out` is read, nothing
    measured again; processes that ask at once wait for one of them. Where the table is of another device nothing is measured.
    `measurer` and `facts` None mean this machine.
    """
    assert stated.max_latency_ms is not None, "an answer about latency needs a limit on it"
    facts = facts or DeviceFacts.collect()
    measurer = measurer or (lambda wanted: measure_networks(table, wanted, config, progress=progress))
    reason = elsewhere(table.measurement_conditions, facts)
    basis = {
        "search": json_digest(stored.result.to_dict()),
        "table": json_digest(table.to_dict()),
        "asked": json_digest([stated.to_dict(), choose, first.to_dict(), asdict(config), rounds, finalists]),
    }
    with (out / ".latency.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (out / FILE_NAME).exists():
            held = LatencyAnswer.load(out)
            if held.basis == basis and (held.rounds or reason is not None):
                return held
        loop = _Loop(stored, table, stated, choose, finalists, measurer)
        if reason is None:
            try:
                loop.run(first, rounds)
            except (MeasurementError, MissingPackageError) as error:
                reason = f"it could not be measured: {error}"
        answer = LatencyAnswer(
            limit_ms=stated.max_latency_ms,
            measurement_conditions=table.measurement_conditions,
            architecture=loop.final() if loop.rounds else first,
            rounds=tuple(loop.rounds),
            not_measured=None if loop.rounds else reason or "no round was asked for",
            device=facts,
            basis=basis,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        answer.save(out)
    return answer


class _Loop:
    """The rounds of one answer."""

    def __init__(
        self,
        stored: StoredSearch,
        table: LatencyTable,
        stated: Budget,
        choose: Literal["cheapest", "best"],
        finalists: int,
        measurer: Measurer,
    ) -> None:
        self.stored, self.table, self.stated, self.choose = stored, table, stated, choose
        self.finalists, self.measurer = finalists, measurer
        self.model = Model(table=table, margin=table.margin)
        self.timings: dict[Architecture, Timing] = {}
        self.rounds: list[LatencyRound] = []

    def run(self, first: Architecture, rounds: int) -> None:
        """Measures and corrects until the choice is measured, nothing is left to choose, or after so many rounds."""
        chosen: Architecture | None = first
        while chosen is not None and chosen not in self.timings and len(self.rounds) < rounds:
            more = [network for network in self._order(self.model.predict) if network not in (chosen, *self.timings)]
            wanted = [chosen, *more[: self.finalists - 1]]
            found = self.measurer(wanted)
            self.rounds.append(
                LatencyRound(
                    correction=self.model.correction,
                    model=str(self.model),
                    margin=self.model.margin,
                    networks=tuple(self._network(network, found[network]) for network in wanted),
                )
            )
            self.timings |= found
            self.model = Model.corrected(self.table, self.timings)
            chosen = next(iter(self._order(self.model.cautious)), None)
            if chosen is None:  # only networks that the margin keeps out are left
                untried = [network for network in self._order(self.model.predict) if network not in self.timings]
                chosen = next(iter(untried), None)

    def final(self) -> Architecture:
        """The measured network to take: the choice, else the first in order that is met, else what the last round chose."""
        order = self._order(self.model.cautious)
        limit = self.stated.max_latency_ms
        assert limit is not None
        if order and order[0] in self.timings:
            return order[0]
        met = [network for network in order if network in self.timings and self.timings[network].status(limit) == WITHIN_BUDGET]
        return met[0] if met else self.rounds[-1].chosen.architecture

    def _order(self, predict: Callable[[Architecture], float]) -> list[Architecture]:
        """The stored networks inside the stated budget in the order of choice, priced by `predict` where not measured."""
        space, meaning = self.stored.space, self.table.measurement_conditions
        upper = {network: timing.high_ms or timing.measured_ms for network, timing in self.timings.items()}
        costs = MeasuredCosts(PredictedCosts(space, predict, meaning), upper, meaning)
        try:
            result = self.stored.answer(self.stated, costs, self.choose).result
        except BudgetError:  # none is inside
            return []
        return order_of_choice(result, self.choose)

    def _network(self, architecture: Architecture, timing: Timing) -> FinalistNetwork:
        score = next(c.score for c in self.stored.result.candidates if c.architecture == architecture)
        flops = count_flops(architecture, self.stored.space)
        predicted = self.model.predict(architecture)
        return FinalistNetwork(architecture=architecture, score=score, flops=flops, predicted_ms=predicted, timing=timing)


def order_of_choice(result: SearchResult, choose: Literal["cheapest", "best"]) -> list[Architecture]:
    """The chosen network, then what would be chosen without it and so on: of the tied the cheapest first, or by score."""
    images = len(result.best.predictions)
    every = ranked([candidate for candidate in result.candidates if len(candidate.predictions) == images])
    first = [result.chosen, *(result.tied if choose == "cheapest" else ())]
    return list(dict.fromkeys(candidate.architecture for candidate in (*first, *every)))


def elsewhere(measurement_conditions: MeasurementConditions, facts: DeviceFacts) -> str | None:
    """Why a limit of this meaning cannot be measured on the machine of these facts, and how it can be; None where it can."""
    how = (
        "measure it there: `autoformer search --from FOLDER --max-latency LIMIT --latency-table TABLE --out OUT` with a copy of "
        "the search's folder, or `python3 board.pyz verify` with the bundle"
    )
    here = device_name(facts, measurement_conditions.backend, threads_of(measurement_conditions))
    if measurement_conditions.backend not in BACKENDS or measurement_conditions.precision != "fp32":
        return (
            f"this command does not measure {measurement_conditions.precision} on {measurement_conditions.backend}; "
            "use `autoformer profile run`, or on the device `python3 board.pyz verify` with the bundle"
        )
    if measurement_conditions.statistic not in ("p50", "p90", "p99"):
        return f"{measurement_conditions.statistic} has no interval; use a table of p50, p90 or p99"
    if here != measurement_conditions.device:
        return f"the latency table is of {measurement_conditions.device}, this machine is {here}; {how}"
    return None


def measure_networks(
    table: LatencyTable,
    architectures: Sequence[Architecture],
    config: MeasureConfig = MeasureConfig(),
    *,
    folder: Path | None = None,
    exporter: Exporter | None = None,
    progress: Progress | None = None,
) -> dict[Architecture, Timing]:
    """Exports and measures networks of the table's space on this machine, interleaved, as the table's qualification says.

    `folder` keeps the exported graphs for another time. Each network is opened eight times (`instances.py`), and a few networks
    of the table run beside them, which brings all times to the table's pace (`anchors.py`). While a verdict is not VALID all are
    measured for as long again, at most three times. Raises `MeasurementError` where what was measured means something else
    than the table does.
    """
    meaning, found = table.measurement_conditions, dict[Architecture, Timing]()
    config = replace(config, rounds=max(config.rounds, ROUNDS_OF_MEASURING))
    if meaning.statistic == "p99":
        config = replace(config, min_runs=max(config.min_runs, MIN_SAMPLES_P99))
    anchors = anchors_of(table, table.predict(architectures[0]), without=architectures)
    steady: dict[str, Measurement] = {}
    with opened_networks(
        table.space, [*architectures, *anchors], meaning.backend, meaning.batch, threads_of(meaning), instances=INSTANCES,
        folder=folder, exporter=exporter, progress=progress,
    ) as opened:  # fmt: skip
        backends = {str(architecture): instances for architecture, instances in opened.items()}
        for steady in measure_together(backends, config, ATTEMPTS, progress):
            if all(one.verdict.level == VALID for one in steady.values()):
                break
    for one in steady.values():
        if one.measurement_conditions(meaning.statistic) != meaning:
            raise MeasurementError(f"measured {one.measurement_conditions(meaning.statistic)}, the table means {meaning}")
    speed_factor = speed_factor_of(table, {anchor: steady[str(anchor)].stats.value(meaning.statistic) for anchor in anchors})
    for architecture in architectures:
        one = steady[str(architecture)]
        low, high = interval_of(one.samples_ms, meaning.statistic) or (None, None)
        found[architecture] = Timing(
            measured_ms=one.stats.value(meaning.statistic) / speed_factor.factor,
            low_ms=None if low is None else low / speed_factor.factor,
            high_ms=None if high is None else high / speed_factor.factor,
            runs=one.stats.n,
            verdict=one.verdict,
            speed_factor=speed_factor.factor,
            speed_factor_error=speed_factor.error,
            instances_ms=one.instances_ms,
        )
    return found


SECONDS = 3.0  # of measuring per network


def measured_answer(
    source: Path | StoredSearch,
    table: LatencyTable,
    stated: Budget,
    out: Path,
    *,
    first: Architecture,
    choose: Literal["cheapest", "best"],
    seconds: float | None = None,
    rounds: int | None = None,
    finalists: int | None = None,
    progress: Progress = silent,
) -> LatencyAnswer:
    """`answer_latency` on this machine, for so many seconds per network; None means the defaults."""
    from autoformer.profiling.measuring.measure import MeasureConfig
    from autoformer.profiling.tables import loop as latency_loop
    from autoformer.search.answer import StoredSearch

    time_s = seconds or SECONDS
    return latency_loop.answer_latency(
        StoredSearch(source) if isinstance(source, Path) else source, table, stated, out, first=first, choose=choose,
        config=MeasureConfig(min_s=time_s, max_s=4 * time_s), rounds=latency_loop.ROUNDS if rounds is None else rounds,
        finalists=finalists or latency_loop.FINALISTS, progress=progress,
    )  # fmt: skip
