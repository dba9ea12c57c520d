"""`LatencyAnswer`: whether a chosen network keeps a limit on latency, as measured; met, not met, or not shown.

Met means that the measurement is VALID and the upper end of the statistic's 95 % interval lies inside the stated limit, not met
that it is VALID and the lower end lies above. Anything else is not shown: an unsteady machine, an interval that holds the
limit, or a limit that is about another device. The file stands beside `search.json`; what it says is checked against its numbers
when it is read back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoformer.architecture import Architecture, is_whole
from autoformer.cost import MeasurementConditions
from autoformer.errors import AutoformerError, CheckpointError
from autoformer.files import read_json, write_json
from autoformer.metric import Score
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.order_statistics import INCONCLUSIVE, OVER_BUDGET, VALID, WITHIN_BUDGET, Verdict, limit_status
from autoformer.search.result import SearchResult

FORMAT = "autoformer/latency-answer/1"
FILE_NAME = "latency_answer.json"
CORRECTIONS = ("none", "local factor", "refit")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The statistic of one measured network, as the qualification says, at the pace of the latency table (`anchors.py`)."""

    measured_ms: float
    low_ms: float | None  # 95 % interval of the statistic; None where the runs carry none
    high_ms: float | None
    runs: int
    verdict: Verdict
    speed_factor: float = 1.0  # what the clock showed is this many times as much: the table's own networks beside it, now to then
    speed_factor_error: float = 0.0  # its standard error, relative; the interval does not hold it
    instances_ms: tuple[float, ...] = ()  # by the clock, of each opening that was joined into this; where its pages lie matters

    def status(self, limit_ms: float) -> str:
        """Met, not met or not shown."""
        return limit_status(limit_ms, self.verdict.level, self.low_ms, self.high_ms)

    def why(self, limit_ms: float) -> str:
        """One clause that says what the status rests on."""
        if self.verdict.level != VALID:
            return f"the measurement is {self.verdict}; measure on a quiet machine, or longer"
        if self.low_ms is None or self.high_ms is None:
            return f"{self.runs} runs carry no interval; measure longer"
        interval = f"95 % interval {self.low_ms:.4g} to {self.high_ms:.4g} ms"
        where = {WITHIN_BUDGET: "lies inside", OVER_BUDGET: "lies above", INCONCLUSIVE: "holds"}[self.status(limit_ms)]
        return f"the {interval} {where} the limit of {limit_ms:.4g} ms"


@dataclass(frozen=True, kw_only=True)
class FinalistNetwork:
    """One network that was measured, beside what was predicted for it when it was picked."""

    architecture: Architecture
    score: Score  # on the search images
    flops: int  # multiply-adds of one image
    predicted_ms: float
    timing: Timing

    @property
    def error(self) -> float:
        """Prediction against measurement, relative; negative where the prediction was too low."""
        return self.predicted_ms / self.timing.measured_ms - 1

    def to_dict(self, limit_ms: float) -> dict[str, Any]:
        """The JSON form; error and status stand there for readers."""
        timing = self.timing
        return {
            "architecture": self.architecture.to_dict(),
            "score": self.score.to_dict(),
            "flops": self.flops,
            "predicted_ms": self.predicted_ms,
            "measured_ms": timing.measured_ms,
            "low_ms": timing.low_ms,
            "high_ms": timing.high_ms,
            "runs": timing.runs,
            "pace": timing.speed_factor,
            "pace_error": timing.speed_factor_error,
            "instances_ms": list(timing.instances_ms),
            "verdict": {"level": timing.verdict.level, "reasons": list(timing.verdict.reasons)},
            "error": self.error,
            "status": timing.status(limit_ms),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], limit_ms: float) -> FinalistNetwork:
        """Reads the JSON form. Raises `ValueError` for numbers that cannot be, or a status that does not follow from them."""
        interval = [values["low_ms"], values["measured_ms"], values["high_ms"]]
        times = [time for time in (*interval, values["predicted_ms"]) if time is not None]
        if not all(isinstance(time, int | float) and 0 < time < math.inf for time in times) or len(times) not in (2, 4):
            raise ValueError(f"times of {str(times)[:80]} ms")
        if len(times) == 4 and sorted(interval) != interval:
            raise ValueError(f"{interval[1]} ms lies outside its own interval")
        if not is_whole(values["runs"], 10**12) or not is_whole(values["flops"], 10**18):
            raise ValueError(f"runs {str(values['runs'])[:40]}, FLOPs {str(values['flops'])[:40]}")
        speed_factor = values.get("pace", 1.0)
        if not isinstance(speed_factor, int | float) or not 0 < speed_factor < math.inf:
            raise ValueError(f"a pace of {str(speed_factor)[:40]}")
        speed_factor_error = values.get("pace_error", 0.0)
        if not isinstance(speed_factor_error, int | float) or not 0 <= speed_factor_error < math.inf:
            raise ValueError(f"a pace known to {str(speed_factor_error)[:40]}")
        sessions = values.get("instances_ms", [])
        if not all(isinstance(time, int | float) and 0 < time < math.inf for time in sessions):
            raise ValueError(f"openings of {str(sessions)[:80]} ms")
        verdict = Verdict(values["verdict"]["level"], tuple(values["verdict"]["reasons"]))
        found = cls(
            architecture=Architecture.from_dict(values["architecture"]),
            score=Score.from_dict(values["score"]),
            flops=values["flops"],
            predicted_ms=values["predicted_ms"],
            timing=Timing(
                measured_ms=interval[1],
                low_ms=interval[0],
                high_ms=interval[2],
                runs=values["runs"],
                verdict=verdict,
                speed_factor=speed_factor,
                speed_factor_error=speed_factor_error,
                instances_ms=tuple(sessions),
            ),
        )
        if values["status"] != found.timing.status(limit_ms):
            raise ValueError(f"{found.architecture.slug} is said to be {str(values['status'])[:40]!r}, its numbers say otherwise")
        return found


@dataclass(frozen=True, kw_only=True)
class LatencyRound:
    """One round: the model of latency in force, the network it chose, and what was measured, the chosen one first."""

    correction: str  # of the table by the rounds before: "none", "local factor" or "refit"
    model: str  # in words
    margin: float  # by which a prediction stayed below the limit, relative
    networks: tuple[FinalistNetwork, ...]

    @property
    def chosen(self) -> FinalistNetwork:
        """The network that the round was about."""
        return self.networks[0]


@dataclass(frozen=True, kw_only=True)
class LatencyAnswer:
    """The answer to a limit on latency, and the rounds of measuring that led to it."""

    limit_ms: float  # as stated
    measurement_conditions: MeasurementConditions
    architecture: Architecture  # the final choice; the search's own where nothing was measured
    rounds: tuple[LatencyRound, ...]
    not_measured: str | None  # why, where there is no round
    device: DeviceFacts  # that asked, and measured
    basis: Mapping[str, str]  # digests of what was asked; another question is another answer
    created: str  # ISO 8601, UTC

    @property
    def chosen(self) -> FinalistNetwork | None:
        """The final choice as measured; None where nothing was."""
        every = [network for taken in self.rounds for network in taken.networks]
        return next((network for network in every if network.architecture == self.architecture), None)

    @property
    def status(self) -> str:
        """Met, not met or not shown."""
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
        speed_factor = ""
        if timing.speed_factor != 1:
            known = f"{timing.speed_factor:.3f} times as long just now, known to {100 * timing.speed_factor_error:.2g} %"
            speed_factor = f", at the table's pace; the machine takes {known}"
        return (
            f"latency {self.status}: {name}{instead} takes {timing.measured_ms:.4g} ms (predicted "
            f"{self.chosen.predicted_ms:.4g}, {100 * self.chosen.error:+.1f} %{speed_factor}); {self.reason} "
            f"({self.measurement_conditions})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        return {
            "format": FORMAT,
            "status": self.status,
            "reason": self.reason,
            "limit_ms": self.limit_ms,
            "qualification": asdict(self.measurement_conditions),
            "architecture": self.architecture.to_dict(),
            "rounds": [
                {
                    "correction": taken.correction,
                    "model": taken.model,
                    "margin": taken.margin,
                    "networks": [network.to_dict(self.limit_ms) for network in taken.networks],
                }
                for taken in self.rounds
            ],
            "not_measured": self.not_measured,
            "device": self.device.to_dict(),
            "basis": dict(self.basis),
            "created": self.created,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyAnswer:
        """Reads the JSON form. Raises `CheckpointError` for another format, or what is missing or cannot be."""
        if values.get("format") != FORMAT:
            raise CheckpointError(f"format is {values.get('format')!r}, expected {FORMAT!r}; search again")
        try:
            limit = values["limit_ms"]
            if not isinstance(limit, int | float) or not 0 < limit < math.inf:
                raise ValueError(f"a limit of {str(limit)[:40]} ms")
            answer = cls(
                limit_ms=limit,
                measurement_conditions=MeasurementConditions(**values["qualification"]),
                architecture=Architecture.from_dict(values["architecture"]),
                rounds=tuple(_round(taken, limit) for taken in values["rounds"]),
                not_measured=values["not_measured"],
                device=DeviceFacts.from_dict(values["device"]),
                basis=dict(values["basis"]),
                created=values["created"],
            )
            if answer.rounds and answer.chosen is None:
                raise ValueError(f"its choice {answer.architecture.slug} was not measured")
            if not isinstance(answer.not_measured, str | None):
                raise ValueError("why nothing was measured is not said in words")
            if values["status"] != answer.status:
                raise ValueError(f"status {str(values['status'])[:40]!r}, its numbers say {answer.status!r}")
        except (KeyError, TypeError, ValueError, AttributeError, AutoformerError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            raise CheckpointError(f"damaged ({what}); remove it and search again") from error
        return answer

    def save(self, folder: Path) -> None:
        """Writes `latency_answer.json`, whole or not at all."""
        write_json(self.to_dict(), folder / FILE_NAME)

    @classmethod
    def load(cls, folder: Path) -> LatencyAnswer:
        """Reads the answer in a search's folder. Raises `CheckpointError` naming the file when it is missing or damaged."""
        path = folder / FILE_NAME
        try:
            values = read_json(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; remove it, and the best few are measured again") from error
        try:
            return cls.from_dict(values)
        except CheckpointError as error:
            raise CheckpointError(f"{path} is no answer that can be used: {error}") from error


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


def _round(values: Mapping[str, Any], limit_ms: float) -> LatencyRound:
    if values["correction"] not in CORRECTIONS or not isinstance(values["model"], str):
        raise ValueError(f"correction {str(values['correction'])[:40]!r}, known are {', '.join(CORRECTIONS)}")
    if not isinstance(values["margin"], int | float) or not 0 <= values["margin"] < math.inf or not values["networks"]:
        raise ValueError(f"a round with margin {str(values['margin'])[:40]} and {len(values['networks'])} networks")
    return LatencyRound(
        correction=values["correction"],
        model=values["model"],
        margin=values["margin"],
        networks=tuple(FinalistNetwork.from_dict(network, limit_ms) for network in values["networks"]),
    )
