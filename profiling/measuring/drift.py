"""Takes the drift that all networks share out of interleaved measurements, and averages over several sessions of each network.

A machine grows slower and faster over seconds. Networks that are compared with each other need that gone: a latency table
says how much slower one is than another. Every round visits every network, so the logarithm of a round's median is a
network's own time plus the round's drift; both are found by median polish (Tukey 1977), which one disturbed visit does not
move. Times are then as in the middle of all rounds.

Two sessions of the same file in one process differ by 2 to 4 per cent, now and then by much more, for as long as they stay open:
their pages lie elsewhere in the caches. So a network may be given as several sessions, its instances, and counts as their median
(of two, the geometric mean).

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from statistics import median

from autoformer.profiling.measuring.backend import LatencyBackend
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.machine_state import MachineState
from autoformer.profiling.measuring.measure import KINDS_OF_SAMPLES, MeasureConfig, Measurement, measure
from autoformer.profiling.measuring.sensors import MachineSensors
from autoformer.profiling.measuring.verdict import VALID
from autoformer.progress import Progress

ROUNDS = 10  # visits of each network: drift of the machine is found as finely as this
SWEEPS = 10  # of the polish; two or three are enough


def measure_together(
    networks: Mapping[str, Sequence[LatencyBackend]],
    config: MeasureConfig,
    attempts: int,
    progress: Progress | None = None,
    *,
    earlier: Sequence[Mapping[str, Measurement]] = (),
    keep: Callable[[Mapping[str, Measurement]], object] | None = None,
) -> Iterator[dict[str, Measurement]]:
    """Measures all instances of all `networks` in common rounds; after each of `attempts` passes, gives the times of all so far.

    `config` is about a network; its instances share the time. Times come without common drift, instances joined. Passes that are
    in `earlier` are not made again; each new one is given to `keep`, by instance and with its drift.
    """
    most = max(len(instances) for instances in networks.values())
    of = {f"{name} #{index}": name for name, instances in networks.items() for index in range(len(instances))}
    backends = {f"{name} #{index}": one for index in range(most) for name, one in _every_other(networks, index)}
    shared = replace(
        config,
        warmup_s=config.warmup_s / most,
        warmup_max_s=config.warmup_max_s / most,
        min_runs=-(-config.min_runs // most),
        min_s=config.min_s / most,
        max_s=config.max_s / most,
    )  # fmt: skip
    facts, sensors, taken, doubtful = DeviceFacts.collect(), MachineSensors(), dict[str, Measurement](), 0
    for number in range(attempts):
        if number < len(earlier):
            found = earlier[number]
        else:
            found = measure(backends, shared, device=facts, sensors=sensors, progress=_told_of(progress, number, doubtful))
            if keep is not None:
                keep(found)
        taken = {name: joined(taken[name], one) if taken else one for name, one in found.items()}
        steady = without_common_drift(taken)
        whole = {name: as_one(name, [one for instance, one in steady.items() if of[instance] == name]) for name in networks}
        doubtful = sum(one.verdict.level != VALID for one in whole.values())
        yield whole


def _told_of(progress: Progress | None, number: int, doubtful: int) -> Progress | None:
    """Progress under a name of its own for each pass but the first, which says why it is made."""
    if progress is None or number == 0:
        return progress

    def told(work: str, done: int, total: int, note: str = "") -> None:
        progress(f"{work} again, pass {number + 1}, {doubtful} not VALID", done, total, note)

    return told


def _every_other(networks: Mapping[str, Sequence[LatencyBackend]], index: int) -> list[tuple[str, LatencyBackend]]:
    """The instances of one number, in one order and for the next number in the other."""
    found = [(name, instances[index]) for name, instances in networks.items() if index < len(instances)]
    return found if index % 2 == 0 else found[::-1]


def drift_of_rounds(medians_ms: Sequence[Sequence[float]]) -> list[float]:
    """One factor per round, with median 1, from the median times [network][round] in milliseconds."""
    own = [0.0] * len(medians_ms)
    drift = [0.0] * len(medians_ms[0])
    logs = [[math.log(time_ms) for time_ms in network] for network in medians_ms]
    for _ in range(SWEEPS):
        own = [median(value - drift[index] for index, value in enumerate(row)) for row in logs]
        drift = [median(row[index] - own[number] for number, row in enumerate(logs)) for index in range(len(drift))]
        middle = median(drift)
        drift = [value - middle for value in drift]
    return [math.exp(value) for value in drift]


def without_common_drift(taken: Mapping[str, Measurement]) -> dict[str, Measurement]:
    """The measurements of one interleaved `measure`, every sample divided by its round's drift, judged anew.

    A clock or a temperature that changed meanwhile no longer counts against them: its effect on all alike is out, and its
    effect on one network alone is in the times. The readings stay.
    """
    rounds = {name: _by_round(one.samples_ms, one.round_runs) for name, one in taken.items()}
    factors = drift_of_rounds([[median(samples) for samples in own] for own in rounds.values()])
    found = {}
    for name, one in taken.items():
        by_sample = [factor for factor, runs in zip(factors, one.round_runs, strict=True) for _ in range(runs)]
        found[name] = one.with_samples(
            **{
                kind: tuple(sample / factor for sample, factor in zip(getattr(one, kind), by_sample, strict=True))
                for kind in KINDS_OF_SAMPLES
                if getattr(one, kind)  # a CPU's own clock is the wall's, a GPU's process may have no CPU times
            },
            conditions=one.conditions and replace(one.conditions, clock_change=None, temperature_rise_c=None),
        )
    return found


def as_one(name: str, instances: Sequence[Measurement]) -> Measurement:
    """The instances of one network as one measurement: round by round, each brought to the median of their medians."""
    medians = [one.stats.p50_ms for one in instances]
    middle = math.exp(median(math.log(time_ms) for time_ms in medians))
    rounds = range(max(len(one.round_runs) for one in instances))
    mixed: dict[str, tuple[float, ...]] = {}
    for kind in KINDS_OF_SAMPLES:
        own = [
            (_by_round(getattr(one, kind), one.round_runs), middle / own_ms)
            for one, own_ms in zip(instances, medians, strict=True)
        ]
        mixed[kind] = tuple(
            factor * sample for index in rounds for by_round, factor in own if index < len(by_round) for sample in by_round[index]
        )
    runs = tuple(sum(one.round_runs[index] for one in instances if index < len(one.round_runs)) for index in rounds)
    conditions = _together([one.conditions for one in instances])
    return instances[0].with_samples(
        name=name, round_runs=runs, instances_ms=tuple(medians), conditions=conditions, **mixed
    )  # fmt: skip


def joined(first: Measurement, second: Measurement) -> Measurement:
    """Two measurements of one network, one after the other, as one of more rounds; judged on all of it."""
    together = {kind: getattr(first, kind) + getattr(second, kind) for kind in KINDS_OF_SAMPLES}
    conditions = _together([first.conditions, second.conditions])
    return first.with_samples(round_runs=first.round_runs + second.round_runs, conditions=conditions, **together)


def _together(conditions: Sequence[MachineState | None]) -> MachineState | None:
    known = [one for one in conditions if one is not None]
    return reduce(MachineState.joined, known) if known else None


def _by_round(samples: Sequence[float], runs: Sequence[int]) -> list[Sequence[float]]:
    found, start = [], 0
    for count in runs:
        found.append(samples[start : start + count])
        start += count
    return found
