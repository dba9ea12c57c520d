"""What other target devices found about a bundle of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.profiling.kits.board_results import BoardResult
from autoformer.profiling.reports.blocks import Section, Table


def values(results: Sequence[BoardResult]) -> list[dict[str, Any]]:
    """One entry for each imported result, in the order of their dates."""
    return [
        {
            "command": result.command,
            "bundle": result.bundle,
            "created": result.created,
            "device": result.device.to_dict(),
            "ran_on": [{"runtime": row.runtime, "device": row.device} for row in result.ran_on()],
            "latency": {
                name: {
                    "backend": taken.backend, "precision": taken.precision, "batch": taken.batch, **taken.stats.to_dict(),
                    "settings": dict(taken.settings), "verdict": taken.verdict.level, "reasons": list(taken.verdict.reasons),
                }
                for name, taken in result.measurements.items()
            },
            "artefacts": {name: dict(found) for name, found in result.artefacts.items()},
            "budget": {name: dict(found) for name, found in result.budget.items()},
            "not_measured": dict(result.not_measured),
        }
        for result in results
    ]  # fmt: skip


def sections(report: Mapping[str, Any]) -> list[Section]:
    """What other devices found; nothing where no result was imported."""
    if not report["boards"]:
        return []
    text = ("The program of the bundle found this on these devices; autoformer report import took it in.",)
    return [Section(name="boards", title="On other devices", text=text, tables=board_tables(report["boards"]))]


def board_tables(boards: Sequence[Mapping[str, Any]]) -> tuple[Table, ...]:
    """Latencies, and what was verified, each named with its device."""
    timed, verified = list[tuple[str, ...]](), list[tuple[str, ...]]()
    for board in boards:
        where = "; ".join(f"{row['device']}, {row['runtime']}" for row in board["ran_on"])
        day = str(board["created"])[:10]
        for name, found in board["latency"].items():
            low, high = found["p50_low_ms"], found["p50_high_ms"]
            interval = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
            shown = f"{found['p50_ms']:.3g} ms{interval}"
            timed.append((where, f"{name}, batch {found['batch']}", shown, found["verdict"], day))
        for name, found in board["artefacts"].items():
            verified.append((where, name, str(found.get("status")), str(found.get("reason")), day))
        for name, found in board["budget"].items():
            verified.append((where, f"limit {name}", str(found.get("status")), _limit(found), day))
        for name, reason in board["not_measured"].items():
            verified.append((where, name, "not measured", reason, day))
    tables = []
    if timed:
        tables.append(
            Table(title="Latency there", columns=("device", "file", "p50 [95 % interval]", "verdict", "date"), rows=tuple(timed))
        )
    if verified:
        tables.append(Table(title="Verified there", columns=("device", "what", "status", "why", "date"), rows=tuple(verified)))
    return tuple(tables)


def _limit(found: Mapping[str, Any]) -> str:
    if found.get("reason"):
        return str(found["reason"])
    value = found.get("median_ms", found.get("value"))
    shown = f"{value:.4g}" if isinstance(value, int | float) else "unknown"
    return f"{shown}, limit {found.get('limit')}" + (f", of {found['measured']}" if found.get("measured") else "")
