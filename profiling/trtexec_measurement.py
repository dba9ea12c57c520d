"""The runs that `trtexec` timed, as a measurement like any other: same statistics, same verdict, same record.

trtexec's latency is GPU time (with copies where they were asked for) by CUDA events; the host's waiting is not in it, and the
settings say so. Standard library only; works on Python 3.10.
"""

from __future__ import annotations

from autoformer.export.trtexec import TrtexecTimes
from autoformer.profiling.conditions import Conditions
from autoformer.profiling.device import DeviceFacts
from autoformer.profiling.measure import Measurement, Warmup, stats_or_none
from autoformer.profiling.statistics import Gates, LatencyStats, judge

BACKEND = "trtexec"


def trtexec_measurement(
    name: str, times: TrtexecTimes, *, precision: str, device: DeviceFacts | None = None, conditions: Conditions | None = None
) -> Measurement:
    """One visit of trtexec to one engine, under `conditions` where sensors were read (trtexec_conditions.py).

    `device` None collects the facts of this machine. Raises `MeasurementError`.
    """
    stats, gpu = LatencyStats.from_samples(times.latency_ms), stats_or_none(times.gpu_ms)
    enqueue = stats_or_none(times.enqueue_ms)
    return Measurement(
        name=name,
        backend=BACKEND,
        precision=precision,
        batch=times.batch,
        threads=None,
        settings=times.settings,
        device=device or DeviceFacts.collect(),
        warmup=Warmup(runs=times.warmup_runs, seconds=times.warmup_s, settled=False),
        stats=stats,
        cpu_stats=None,
        device_stats=gpu,
        verdict=judge(stats, Gates.for_backend(BACKEND), gpu=gpu, enqueue=enqueue, conditions=conditions),
        samples_ms=times.latency_ms,
        cpu_samples_ms=(),
        device_samples_ms=times.gpu_ms,
        round_runs=(len(times.latency_ms),),
        enqueue_samples_ms=times.enqueue_ms,
        conditions=conditions,
    )
