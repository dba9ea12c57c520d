"""`LatencyAnswer`: whether a chosen network keeps a limit on latency, as measured: within budget, over budget, or inconclusive.

It is within budget when the measurement is VALID and the upper end of the statistic's 95 % interval lies inside the stated limit,
over budget when it is VALID and the lower end lies above. Anything else is inconclusive: an unsteady machine, an interval that
holds the limit, or a limit that is about another device. The file stands beside `search.json`; what it says is checked against
its numbers when it is read back.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.errors import CheckpointError, MeasurementError, short
from autoformer.files import believing, read_document, write_json
from autoformer.metric import Score
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.verdict import (
    INCONCLUSIVE,
    OVER_BUDGET,
    VALID,
    WITHIN_BUDGET,
    Verdict,
    limit_status,
)
from autoformer.records import fields_to_json, from_json, stored_as
from autoformer.search.result import SearchResult

FORMAT = "autoformer/latency-answer/1"
FILE_NAME = "latency_answer.json"
Correction = Literal["none", "local factor", "refit"]  # of a latency table (`correction.py`)
ODD_PACE = 1.4  # measured against predicted: tables err by a few per cent, more is the machine
LEAST_ALIKE = 3  # networks that tell so together
_EARLIER = {"met": WITHIN_BUDGET, "not met": OVER_BUDGET, "not shown": INCONCLUSIVE}  # statuses as earlier versions wrote them


def status_from(label: object) -> str:
    """The status that a file names, by its present or its earlier label. Raises `MeasurementError` for any other."""
    status = _EARLIER.get(str(label), str(label))
    if status not in _EARLIER.values():
        raise MeasurementError(f"status {short(label, 40)!r}; expected {', '.join(_EARLIER.values())}")
    return status


def agrees(label: object, status: str, verdict: Verdict) -> bool:
    """Whether a file's label says this status of a measurement.

    Earlier versions held no time that is not VALID against a limit. Raises `MeasurementError` for no label at all.
    """
    stored = status_from(label)
    return stored == status or (stored == INCONCLUSIVE and verdict.level != VALID)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The statistic of one measured network, as the measurement conditions say, divided by the machine speed factor.

    Raises `ValueError` for times that cannot be.
    """

    measured_ms: float
    low_ms: float | None  # 95 % interval of the statistic; None where the runs carry none
    high_ms: float | None
    runs: int
    verdict: Verdict
    speed_factor: float = field(default=1.0, metadata=stored_as("pace"))  # how much longer the table's own networks take now
    speed_factor_error: float = field(default=0.0, metadata=stored_as("pace_error"))  # standard, relative; not in the interval
    instances_ms: tuple[float, ...] = ()  # by the clock, of each session that was joined into this; where its pages lie matters

    def __post_init__(self) -> None:
        interval = [time for time in (self.low_ms, self.measured_ms, self.high_ms) if time is not None]
        if len(interval) == 2 or not all(0 < time < math.inf for time in (*interval, *self.instances_ms)):
            raise ValueError(f"times of {self.low_ms}, {self.measured_ms}, {self.high_ms} ms")
        if sorted(interval) != interval:
            raise ValueError(f"{self.measured_ms} ms lies outside its own interval")
        if not (self.runs > 0 and 0 < self.speed_factor < math.inf and 0 <= self.speed_factor_error < math.inf):
            raise ValueError(f"{self.runs} runs, a machine speed factor of {self.speed_factor} ± {self.speed_factor_error}")

    def status(self, limit_ms: float) -> str:
        """Within budget, over budget or inconclusive."""
        verdict = self.verdict
        if verdict.level != VALID and self.speed_factor != 1:  # whose own networks other programs may have slowed more
            return INCONCLUSIVE
        return limit_status(limit_ms, verdict, self.low_ms, self.high_ms)

    def why(self, limit_ms: float) -> str:
        """One clause that says what the status rests on."""
        status, is_valid = self.status(limit_ms), self.verdict.level == VALID
        if not is_valid and status == INCONCLUSIVE:
            return f"the measurement is {self.verdict}; measure on a quiet machine, or longer"
        if self.low_ms is None or self.high_ms is None:
            return f"{self.runs} runs carry no interval; measure longer"
        interval = f"95 % interval {self.low_ms:.4g} to {self.high_ms:.4g} ms"
        where = {WITHIN_BUDGET: "lies inside", OVER_BUDGET: "lies above", INCONCLUSIVE: "holds"}[status]
        said = f"the {interval} {where} the limit of {limit_ms:.4g} ms"
        return said if is_valid else f"{said}, though other programs made the time longer ({self.verdict})"


@dataclass(frozen=True, kw_only=True)
class FinalistNetwork:
    """One network that was measured, beside what was predicted for it when it was picked."""

    architecture: Architecture
    score: Score  # on the search images
    flops: int  # multiply-adds of one image
    predicted_ms: float
    timing: Timing  # its fields stand beside the others in the file

    def __post_init__(self) -> None:
        if not (0 < self.predicted_ms < math.inf and self.flops > 0):
            raise ValueError(f"{self.flops} FLOPs, predicted times of {self.predicted_ms} ms")

    @property
    def error(self) -> float:
        """Prediction against measurement, relative; negative where the prediction was too low."""
        return self.predicted_ms / self.timing.measured_ms - 1

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; the error stands there for readers."""
        values = fields_to_json(self)
        return {**values.pop("timing"), **values, "error": self.error}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinalistNetwork:
        """Reads the JSON form. Raises `CheckpointError` for what is missing or cannot be."""
        own = {name: values[name] for name in ("architecture", "score", "flops", "predicted_ms") if name in values}
        timing = {name: value for name, value in values.items() if name not in {*own, "error", "status"}}
        return from_json(cls, {**own, "timing": timing})


@dataclass(frozen=True, kw_only=True)
class LatencyRound:
    """One round: the latency predictions in force, the network they chose, and what was measured, the chosen one first."""

    correction: Correction  # of the table by the rounds before
    model: str  # in words
    margin: float  # by which a prediction stayed below the limit, relative
    networks: tuple[FinalistNetwork, ...]

    def __post_init__(self) -> None:
        if not (0 <= self.margin < math.inf and self.networks):
            raise ValueError(f"a round with margin {self.margin} and {len(self.networks)} networks")

    @property
    def chosen(self) -> FinalistNetwork:
        """The network that the round was about."""
        return self.networks[0]


@dataclass(frozen=True, kw_only=True)
class LatencyAnswer:
    """The answer to a limit on latency, and the rounds of measuring that led to it."""

    limit_ms: float  # as stated
    measurement_conditions: MeasurementConditions = field(metadata=stored_as("qualification"))
    architecture: Architecture  # the final choice; the search's own where nothing was measured
    rounds: tuple[LatencyRound, ...]
    not_measured: str | None  # why, where there is no round
    device: DeviceFacts  # that asked, and measured
    basis: Mapping[str, str]  # digests of what was asked; another question is another answer
    created: str  # ISO 8601, UTC

    def __post_init__(self) -> None:
        if not 0 < self.limit_ms < math.inf:
            raise ValueError(f"a limit of {self.limit_ms} ms")
        if self.rounds and self.chosen is None:
            raise ValueError(f"its choice {self.architecture.slug} was not measured")

    @property
    def networks(self) -> list[FinalistNetwork]:
        """Those of all rounds."""
        return [network for taken in self.rounds for network in taken.networks]

    @property
    def chosen(self) -> FinalistNetwork | None:
        """The final choice as measured; None where nothing was."""
        return next((network for network in self.networks if network.architecture == self.architecture), None)

    @property
    def status(self) -> str:
        """Within budget, over budget or inconclusive."""
        return INCONCLUSIVE if self.chosen is None else self.chosen.timing.status(self.limit_ms)

    @property
    def reason(self) -> str:
        """What the status rests on."""
        return self.chosen.timing.why(self.limit_ms) if self.chosen is not None else self.not_measured or "nothing was measured"

    def __str__(self) -> str:
        name = self.architecture.slug
        if self.chosen is None:
            return f"latency {self.status}: {self.reason}"
        first = self.rounds[0].chosen.architecture
        instead = "" if first == self.architecture else f", chosen instead of {first.slug}"
        timing = self.chosen.timing
        speed = ""
        if timing.speed_factor != 1:
            known = f"{timing.speed_factor:.3f} times as long just now, known to {100 * timing.speed_factor_error:.2g} %"
            speed = f", at the machine speed of the table; the machine takes {known}"
        return (
            f"latency {self.status}: {name}{instead} takes {timing.measured_ms:.4g} ms, "
            f"{100 * timing.measured_ms / self.limit_ms:.0f} % of the limit (predicted "
            f"{self.chosen.predicted_ms:.4g}, {100 * self.chosen.error:+.1f} %{speed}); {self.reason} "
            f"({self.measurement_conditions})"
        )

    @property
    def off_alike(self) -> str:
        """That all networks took far more, or far less, than the table said: that is the machine. Empty where they did not."""
        factors = [1 / (1 + network.error) for network in (self.rounds[0].networks if self.rounds else ())]
        if len(factors) < LEAST_ALIKE or not (min(factors) > ODD_PACE or max(factors) < 1 / ODD_PACE):
            return ""
        return (
            f"all {len(factors)} took about {statistics.median(factors):.2g} times what the table says: the machine has not "
            "the speed of when it was measured; measure it anew (autoformer profile table), or search when it is as it was"
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back. Status and reason stand there for readers."""
        values = {"format": FORMAT, "status": self.status, "reason": self.reason, **fields_to_json(self)}
        for network, entry in zip(self.networks, _entries(values), strict=True):
            entry["status"] = network.timing.status(self.limit_ms)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyAnswer:
        """Reads the JSON form. Raises `CheckpointError` for what is missing or cannot be, or a status that does not follow."""
        answer = from_json(cls, values, beside=("format", "status", "reason"))
        said = [(values, answer.status, Verdict(VALID) if answer.chosen is None else answer.chosen.timing.verdict)]
        said += [
            (entry, network.timing.status(answer.limit_ms), network.timing.verdict)
            for network, entry in zip(answer.networks, _entries(values), strict=True)
        ]
        for entry, status, verdict in said:
            if not agrees(entry["status"], status, verdict):
                raise CheckpointError(f"status {short(entry['status'], 40)!r}, its numbers say {status!r}")
        return answer

    def save(self, folder: Path) -> None:
        """Writes `latency_answer.json`, whole or not at all."""
        write_json(self.to_dict(), folder / FILE_NAME)

    @classmethod
    def load(cls, folder: Path) -> LatencyAnswer:
        """Reads the answer in a search's folder. Raises `CheckpointError` naming the file when it is missing or damaged."""
        path = folder / FILE_NAME
        with believing(path, "remove it, and the best few are measured again", fault="cannot be used"):
            return cls.from_dict(read_document(path, FORMAT, expected="the answer to a limit on latency"))


def _entries(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The networks of all rounds in the JSON form of an answer."""
    return [entry for taken in values["rounds"] for entry in taken["networks"]]


def finally_chosen(result: SearchResult, folder: Path) -> SearchResult:
    """The result with the network chosen that was chosen after measuring; as it is where `folder` holds no answer.

    Raises `CheckpointError` when the answer is damaged or about another search.
    """
    if not (folder / FILE_NAME).exists():
        return result
    wanted = LatencyAnswer.load(folder).architecture
    chosen = next((candidate for candidate in result.candidates if candidate.architecture == wanted), None)
    if chosen is None:
        raise CheckpointError(f"{folder / FILE_NAME} chose {wanted.slug}, which the search beside it did not evaluate; remove it")
    return replace(result, chosen=chosen)
