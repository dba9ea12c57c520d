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
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, MeasuredCosts, count_flops
from autoformer.errors import BudgetError, MeasurementError, MissingPackageError
from autoformer.files import json_digest
from autoformer.profiling.backends.of_spaces import Exporter, Setup, opened_networks
from autoformer.profiling.measuring.backend import USUAL_BACKENDS
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig, device_name, threads_of
from autoformer.profiling.measuring.verdict import WITHIN_BUDGET
from autoformer.profiling.tables.correction import CorrectedTable
from autoformer.profiling.tables.limit import FILE_NAME, FinalistNetwork, LatencyAnswer, LatencyRound, Timing
from autoformer.profiling.tables.speed_factor import anchors_of
from autoformer.profiling.tables.table import LatencyTable
from autoformer.profiling.tables.timed import timed
from autoformer.progress import Progress
from autoformer.search.answer import StoredSearch
from autoformer.search.candidate import ranked
from autoformer.search.result import SearchResult

SECONDS = 3.0  # of measuring per network

Choose = Literal["cheapest", "best"]
Measurer = Callable[[Sequence[Architecture]], Mapping[Architecture, Timing]]


@dataclass(frozen=True, kw_only=True)
class LatencyQuestion:
    """Whether the network that a search offers keeps a limit on latency, and how that is answered."""

    stated: Budget  # with a limit on latency
    first: Architecture  # what the search chose by the table, less its margin
    choose: Choose
    config: MeasureConfig = field(default_factory=lambda: MeasureConfig.lasting(SECONDS))
    rounds: int = 3
    finalists: int = 5  # measured in a round: the chosen one and four more

    @property
    def limit_ms(self) -> float:
        """The limit on latency."""
        assert self.stated.max_latency_ms is not None, "an answer about latency needs a limit on it"
        return self.stated.max_latency_ms


def answer_latency(
    stored: StoredSearch,
    table: LatencyTable,
    question: LatencyQuestion,
    out: Path,
    *,
    measurer: Measurer | None = None,
    facts: DeviceFacts | None = None,
    progress: Progress | None = None,
) -> LatencyAnswer:
    """Whether the network that `stored` offers keeps the limit as measured here; writes `out/latency_answer.json`.

    A finished answer to the same question in `out` is read, nothing measured again; processes that ask at once wait for one of
    them. Where the table is of another device nothing is measured. `measurer` and `facts` None mean this machine.
    """
    facts = facts or DeviceFacts.collect()
    measurer = measurer or (lambda wanted: measure_networks(table, wanted, question.config, progress=progress))
    reason = elsewhere(table.measurement_conditions, facts)
    asked = [
        question.stated.to_dict(), question.choose, question.first.to_dict(), asdict(question.config), question.rounds,
        question.finalists,
    ]  # fmt: skip
    basis = {
        "search": json_digest(stored.result.to_dict()),
        "table": json_digest(table.to_dict()),
        "asked": json_digest(asked),
    }
    with (out / ".latency.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (out / FILE_NAME).exists():
            held = LatencyAnswer.load(out)
            if held.basis == basis and (held.rounds or reason is not None):
                return held
        loop = _Loop(stored, table, question, measurer)
        if reason is None:
            try:
                loop.run()
            except (MeasurementError, MissingPackageError) as error:
                reason = f"it could not be measured: {error}"
        answer = LatencyAnswer(
            limit_ms=question.limit_ms,
            measurement_conditions=table.measurement_conditions,
            architecture=loop.final() if loop.rounds else question.first,
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

    def __init__(self, stored: StoredSearch, table: LatencyTable, question: LatencyQuestion, measurer: Measurer) -> None:
        self.stored, self.table, self.question, self.measurer = stored, table, question, measurer
        self.model = CorrectedTable(table=table, margin=table.margin)
        self.timings: dict[Architecture, Timing] = {}
        self.rounds: list[LatencyRound] = []

    def run(self) -> None:
        """Measures and corrects until the choice is measured, nothing is left to choose, or all rounds are made."""
        chosen: Architecture | None = self.question.first
        while chosen is not None and chosen not in self.timings and len(self.rounds) < self.question.rounds:
            more = [network for network in self._order(self.model.predict) if network not in (chosen, *self.timings)]
            wanted = [chosen, *more[: self.question.finalists - 1]]
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
            self.model = CorrectedTable.by(self.table, self.timings)
            chosen = next(iter(self._order(self.model.cautious)), None)
            if chosen is None:  # only networks that the margin keeps out are left
                untried = [network for network in self._order(self.model.predict) if network not in self.timings]
                chosen = next(iter(untried), None)

    def final(self) -> Architecture:
        """The measured network to take: the choice, else the first in order within budget, else what the last round chose."""
        order, limit = self._order(self.model.cautious), self.question.limit_ms
        if order and order[0] in self.timings:
            return order[0]
        kept = (network for network in order if network in self.timings and self.timings[network].status(limit) == WITHIN_BUDGET)
        return next(kept, self.rounds[-1].chosen.architecture)

    def _order(self, predict: Callable[[Architecture], float]) -> list[Architecture]:
        """The stored networks inside the stated budget in the order of choice, priced by `predict` where not measured."""
        upper = {network: timing.high_ms or timing.measured_ms for network, timing in self.timings.items()}
        costs = MeasuredCosts(self.stored.space, upper, predict, self.table.measurement_conditions)
        try:
            result = self.stored.answer(self.question.stated, costs, self.question.choose).result
        except BudgetError:  # none is inside
            return []
        return order_of_choice(result, self.question.choose)

    def _network(self, architecture: Architecture, timing: Timing) -> FinalistNetwork:
        score = next(c.score for c in self.stored.result.candidates if c.architecture == architecture)
        flops = count_flops(architecture, self.stored.space)
        predicted = self.model.predict(architecture)
        return FinalistNetwork(architecture=architecture, score=score, flops=flops, predicted_ms=predicted, timing=timing)


def order_of_choice(result: SearchResult, choose: Choose) -> list[Architecture]:
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
    if measurement_conditions.backend not in USUAL_BACKENDS or measurement_conditions.precision != "fp32":
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
    """Exports and measures networks of the table's space on this machine, interleaved, as the table's measurement conditions say.

    `folder` keeps the exported graphs for another time. Each network has eight sessions (`of_spaces.py`), and a few networks of
    the table run beside them, which tell the machine speed factor (`timed.py`). Raises `MeasurementError` where the measurement
    conditions are not those of the table.
    """
    meaning = table.measurement_conditions
    anchors = anchors_of(table, table.predict(architectures[0]), without=architectures)
    setup, together = Setup(backend=meaning.backend, batch=meaning.batch, threads=threads_of(meaning)), [*architectures, *anchors]
    with opened_networks(table.space, together, setup, folder=folder, exporter=exporter, progress=progress) as opened:
        found = timed(opened, config, meaning=meaning, table=table, anchors=anchors, progress=progress)
    return {architecture: found[architecture] for architecture in architectures}
