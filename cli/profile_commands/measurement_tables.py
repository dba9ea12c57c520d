"""What `profile run` shows of its measurements: tables on stdout, reasons on stderr."""

from __future__ import annotations

from collections.abc import Sequence

from autoformer.cli.console import note, print_table, say_not_measured
from autoformer.profiling.measuring.measure import NOT_LOCKED, Measurement
from autoformer.profiling.profiles.batch_sweep import BatchSweep, throughputs
from autoformer.profiling.profiles.latency import Profile


def show_profile(profile: Profile, threads: int) -> None:
    """Latencies, then cold starts and energy, then what could not be measured."""
    rows = []
    for measured in profile.measurements:
        stats = measured.stats
        shown = [f"{value:.3f}" if value is not None else "too few runs" for value in (stats.p50_ms, stats.p90_ms, stats.p99_ms)]
        rows.append((measured.name, measured.precision, *shown, f"{profile.ratio(measured):.3f}", verdict_words(measured)))
    columns = ("artefact", "precision", "p50 ms", "p90 ms", "p99 ms", "p50 / reference", "verdict")
    what = "latency of one call (wall_ms; e2e_ms in rows with copies)"
    by = f"{threads} thread{'' if threads == 1 else 's'}"
    print_table(f"{what}, batch {profile.measurements[0].batch}, {by}", columns, rows)
    if rows := [_metric_row(taken) for taken in profile.measurements if {"gpu_ms", "enqueue_ms"} & set(taken.metrics)]:
        print_table("by the GPU's clock", ("artefact", "gpu_ms p50", "enqueue_ms p50"), rows)
    _show_besides([profile])
    say_not_measured(profile.not_measured)


def show_sweep(sweep: BatchSweep) -> None:
    """Time and throughput by batch."""
    rows = []
    for (name, backend), found in throughputs(sweep.profiles).items():
        for batch, images_per_s in found.items():
            taken = next(
                one
                for profile in sweep.profiles
                for one in profile.measurements
                if (one.name, one.backend, one.batch) == (name, backend, batch)
            )
            rows.append((name, str(batch), f"{taken.stats.p50_ms:.3f}", f"{images_per_s:.1f}", verdict_words(taken)))
    print_table("by batch", ("artefact", "batch", "p50 ms", "images/s", "verdict"), rows)
    note(sweep.ended)
    _show_besides(sweep.profiles)
    say_not_measured(item for profile in sweep.profiles for item in profile.not_measured)


def _show_besides(profiles: Sequence[Profile]) -> None:
    """The clock that a GPU was locked at, and cold starts and energy where they were asked for."""
    for words in dict.fromkeys(taken.gpu_clock for profile in profiles for taken in profile.measurements):
        if words is not None and words != NOT_LOCKED:  # that stands beside the verdict
            note(f"the GPU's clock was {words}")
    if starts := [start for profile in profiles for start in profile.cold_starts]:
        rows = [
            (
                f"{start.name} ({start.backend})", str(start.batch), f"{start.load_ms:.1f}", f"{start.first_ms:.2f}",
                f"{start.warm_ms:.2f}", f"{start.after_idle_ms:.2f}", _mib(start.memory_mib), _mib(start.gpu_memory_mib),
            )
            for start in starts
        ]  # fmt: skip
        idle = f"after {starts[0].idle_s:g} s idle ms"
        columns = ("artefact", "batch", "load ms", "first ms", "warm ms", idle, "memory MiB", "GPU memory MiB")
        print_table("cold start, in a process of its own", columns, rows)
    if energy := [one for profile in profiles for one in profile.energy]:
        drawn = [
            (
                one.name, str(one.batch), f"{one.idle_w:.2f}", f"{one.load_w:.2f}", f"{one.joule_per_run:.4g}",
                f"{one.images_per_joule:.4g}",
            )
            for one in energy
        ]  # fmt: skip
        print_table("energy", ("artefact", "batch", "idle W", "load W", "J per call", "images per J"), drawn)


def verdict_words(measured: Measurement) -> str:
    """The verdict, and whether a GPU's clock was not locked."""
    return f"{measured.verdict}{' (clocks unlocked)' if measured.gpu_clock == NOT_LOCKED else ''}"


def doubtful(profiles: Sequence[Profile]) -> list[str]:
    """A line for each measurement that is not VALID, or ran with unlocked clocks."""
    found = [taken for profile in profiles for taken in profile.measurements if verdict_words(taken) != "VALID"]
    return [f"{taken.name}, batch {taken.batch}: {verdict_words(taken)}" for taken in found]


def _metric_row(taken: Measurement) -> tuple[str, str, str]:
    found = [taken.metrics.get(name) for name in ("gpu_ms", "enqueue_ms")]
    first, second = ("–" if stats is None else f"{stats.p50_ms:.3f}" for stats in found)
    return (taken.name, first, second)


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"
