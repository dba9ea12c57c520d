"""The report's part on latency in the loop: what was measured before the choice was final, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoformer.profiling.latency_answer import LatencyAnswer
from autoformer.profiling.report_tables import Table


def loop_content(answer: LatencyAnswer | None) -> dict[str, Any] | None:
    """The answer as values; None where the run has no limit on latency."""
    if answer is None:
        return None
    return {
        **{name: value for name, value in answer.to_dict().items() if name not in ("device", "basis", "format")},
        "slug": answer.architecture.slug,
        "qualification": str(answer.qualification),
        "instead_of": answer.rounds[0].chosen.architecture.slug
        if answer.rounds and answer.rounds[0].chosen.architecture != answer.architecture
        else None,
        "slugs": [[network.architecture.slug for network in taken.networks] for taken in answer.rounds],
    }


def loop_text(loop: Mapping[str, Any]) -> tuple[str, ...]:
    """What the measurements changed, in sentences."""
    if not loop["rounds"]:
        return (f"The networks that the search offered were not measured: {loop['not_measured']}.",)
    count = sum(len(slugs) for slugs in loop["slugs"])
    paces = sorted({network["pace"] for taken in loop["rounds"] for network in taken["networks"]} - {1.0})
    shown = " to ".join(f"{value:.3f}" for value in dict.fromkeys((*paces[:1], *paces[-1:])))
    beside = f" Networks of the latency table ran beside them and took {shown} times as long as then; times are divided by that."
    pace = beside if paces else ""
    changed = f" It is chosen instead of {loop['instead_of']}, which the search offered first." if loop["instead_of"] else ""
    return (
        f"Before the choice was final {count} networks were exported and measured in {len(loop['rounds'])} rounds. Measured ones "
        f"count with their measurement, the others with the corrected table. The limit of {loop['limit_ms']:.4g} ms is "
        f"{loop['status']} by {loop['slug']}: {loop['reason']} ({loop['qualification']}).{pace}{changed}",
    )


def loop_table(loop: Mapping[str, Any]) -> Table:
    """Every measured network, round by round."""
    rows = []
    for number, (taken, slugs) in enumerate(zip(loop["rounds"], loop["slugs"], strict=True), 1):
        for slug, network in zip(slugs, taken["networks"], strict=True):
            interval = "" if network["low_ms"] is None else f" [{network['low_ms']:.4g}, {network['high_ms']:.4g}]"
            mark = "final choice" if slug == loop["slug"] else ""
            measured = f"{network['measured_ms']:.4g} ms{interval}"
            error = f"{100 * network['error']:+.1f} %"
            rows.append((str(number), slug, f"{network['predicted_ms']:.4g} ms", measured, error, network["status"], mark))
    return Table(
        title="Measured in the loop",
        columns=("round", "network", "predicted", "measured, 95 % interval", "error of the prediction", "limit", ""),
        rows=tuple(rows),
        numbers=(2, 3, 4),
        note="Weights are fresh in these measurements; the delivered files are measured once more below.",
    )
