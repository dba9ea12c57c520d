"""What a command does about a limit on latency once the search is over: measures the best few, and shows the answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autoformer.progress import Progress, silent

if TYPE_CHECKING:
    from autoformer.architecture import Architecture
    from autoformer.cost import Budget
    from autoformer.profiling.latency_answer import LatencyAnswer
    from autoformer.profiling.latency_table import LatencyTable
    from autoformer.stored_answers import StoredSearch

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
    from autoformer.profiling import latency_loop
    from autoformer.profiling.measure import MeasureConfig
    from autoformer.stored_answers import StoredSearch

    time_s = seconds or SECONDS
    return latency_loop.answer_latency(
        StoredSearch(source) if isinstance(source, Path) else source, table, stated, out, first=first, choose=choose,
        config=MeasureConfig(min_s=time_s, max_s=4 * time_s), rounds=latency_loop.ROUNDS if rounds is None else rounds,
        finalists=finalists or latency_loop.FINALISTS, progress=progress,
    )  # fmt: skip


def print_answer(answer: LatencyAnswer) -> None:
    """The answer in one line, then what was measured, a row per network."""
    from autoformer.cli.console import print_table

    print(answer)
    rows = []
    for number, taken in enumerate(answer.rounds, 1):
        for network in taken.networks:
            timing = network.timing
            interval = "too few runs" if timing.low_ms is None else f"{timing.low_ms:.4g} to {timing.high_ms:.4g}"
            marks = [
                mark
                for mark, holds in (
                    ("asked first", taken is answer.rounds[0] and network is taken.chosen),
                    ("taken", network is answer.chosen),
                )
                if holds
            ]
            rows.append(
                (
                    str(number),
                    network.architecture.slug,
                    f"{100 * network.score.value:.2f} %",
                    f"{network.predicted_ms:.4g}",
                    f"{timing.measured_ms:.4g}",
                    interval,
                    f"{100 * network.error:+.1f} %",
                    timing.verdict.level,
                    timing.status(answer.limit_ms),
                    ", ".join(marks),
                )
            )
    if rows:
        columns = (
            "round", "network", answer.rounds[0].chosen.score.words, "predicted ms", "measured ms", "95 % interval", "error",
            "verdict", f"at most {answer.limit_ms:.4g} ms", "",
        )  # fmt: skip
        print_table(f"measured here; the table is {answer.rounds[-1].model}", columns, rows)
