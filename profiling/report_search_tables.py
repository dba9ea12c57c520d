"""The tables about the search: the chosen network beside others, and what the Pareto front prefers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoformer.cost import show
from autoformer.evaluate import WORDS, metric_from
from autoformer.profiling.report_numbers import score_text
from autoformer.profiling.report_tables import Table

KINDS = (("heads", "Heads", "heads"), ("mlp_ratio", "MLP ratios", "ratio"))


def compared_table(report: Mapping[str, Any]) -> Table:
    """The chosen network, the best and the baselines: scores on the search images and on those that confirm them."""
    search = report["search"]
    confirmation, metric = search["confirmation"], WORDS[metric_from(report["metric"])]
    rows = []
    for name, network in search["compared"].items():
        again = "not scored" if network["confirmed"] is None else score_text(network["confirmed"])
        row = (
            f"{name} ({network['slug']})",
            score_text(network["score"]),
            *(() if confirmation is None else (again,)),
            "–" if name == "chosen" else network["against_chosen"],
            show("params", network["params"]),
            show("flops", network["flops"]),
        )
        rows.append(row)
    columns = ["network", f"{metric} on the search images"]
    columns += [] if confirmation is None else [f"on {confirmation['images']} other images"]
    columns += ["against the chosen", "parameters", "FLOPs"]
    notes = {
        "dearest inside": "Dearest inside: the most FLOPs that the budget allows.",
        "best uniform": "Best uniform: the best of the evaluated networks that have the same block throughout.",
    }
    return Table(
        title="The chosen network beside others",
        columns=tuple(columns),
        rows=tuple(rows),
        numbers=tuple(range(len(columns) - 2, len(columns))),
        note=" ".join([*(text for name, text in notes.items() if name in search["compared"]),
                       "Networks are compared image by image on the search images."]),
    )  # fmt: skip


def preference_tables(report: Mapping[str, Any]) -> tuple[Table, ...]:
    """The figures of the front's preferences in numbers: heads and MLP ratios by block, then the shapes."""
    found = report["search"]["preferences"]
    tables = []
    for kind, title, word in KINDS:
        choices = sorted({entry["choice"] for block in found["blocks"] for entry in block[kind]})
        rows = []
        for block in found["blocks"]:
            counts = {entry["choice"]: entry for entry in block[kind]}
            cells = (_shares(counts.get(choice), block) for choice in choices)
            rows.append((str(block["block"]), f"{block['front']} / {block['evaluated']}", *cells))
        tables.append(
            Table(
                title=f"{title} by block",
                columns=("block", "networks", *(f"{word} {choice:g}" for choice in choices)),
                rows=tuple(rows),
                numbers=tuple(range(1, 2 + len(choices))),
                compact=True,
            )
        )
    shapes = [
        (f"{kind} {entry['choice']:g}{' px' if kind == 'image size' else ''}", _shares(entry, found))
        for kind, entries in found["shapes"].items()
        for entry in entries
    ]
    columns = ("choice", f"{found['front']} / {found['evaluated']}")
    return (*tables, Table(title="Shapes", columns=columns, rows=tuple(shapes), numbers=(1,), compact=True))


def _shares(entry: Mapping[str, Any] | None, networks: Mapping[str, Any]) -> str:
    """`67 / 40`: per cent of the networks on the front, and of all evaluated; a stroke where there is no network."""
    counts = {"front": 0, "evaluated": 0} if entry is None else entry
    shares = (f"{100 * counts[group] / networks[group]:.0f}" if networks[group] else "–" for group in ("front", "evaluated"))
    return " / ".join(shares)
