"""The report's part on where the time goes: a table by kind of module, and a figure by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.profiling.layers import LayerProfile
from autoformer.profiling.report_plot import SERIES, Figure, Plot, common_layout, plain
from autoformer.profiling.report_tables import Table

LAYERS_TEXT = "Per-layer times are taken with the runtime's profiler, which slows it down; their sum is not scaled to fit."


def layer_table(layers: Mapping[str, Any], source: str = "") -> Table:
    """Time by kind of module, from the JSON form of a `LayerProfile`."""
    total = layers["sum_ms"]
    rows = [(name, f"{ms:.4f} ms", f"{100 * ms / total:.1f} %" if total else "–") for name, ms in layers["by_kind_ms"].items()]
    known = f"{100 * layers['joined_share']:.0f} %"
    note = f"Sum {total:.4g} ms over {len(layers['layers'])} layers; the torch module is known of {known}."
    if layers["end_to_end_ms"] is not None:
        note += f" A run without the profiler took {layers['end_to_end_ms']:.4g} ms, the sum is "
        note += f"{layers['sum_over_end_to_end']:.3g} times that."
    return Table(
        title=f"{layers['name']} on {layers['backend']}" + (f" ({source})" if source else ""),
        columns=("kind", "one run", "share"), rows=tuple(rows), numbers=(1, 2), note=note, compact=True,
    )  # fmt: skip


def blocks_figure(profiles: Sequence[LayerProfile]) -> Figure | None:
    """Time of each block by kind, one view per profile; None without profiles."""
    views = {}
    for profile in profiles:
        blocks = list(profile.by("block"))
        traces: list[Plot] = []
        for index, kind in enumerate(profile.by("kind")):
            times = [
                sum(layer.average_ms for layer in profile.layers if (layer.block, layer.kind) == (block, kind))
                for block in blocks
            ]
            traces.append(
                {
                    "type": "bar", "name": plain(kind), "x": [plain(block) for block in blocks],
                    "y": [float(f"{time:.5g}") for time in times], "marker": {"color": SERIES[index % len(SERIES)]},
                }
            )  # fmt: skip
        word = plain(f"{profile.name} on {profile.backend}")
        views[word] = {"data": traces, "layout": common_layout("", "one run, ms", barmode="stack")}
    if not views:
        return None
    caption = "Average time of one run under the runtime's profiler, by transformer block and kind of module."
    switch = "network" if len(views) > 1 else ""
    return Figure(name="layers", title="Time by block", caption=caption, views=views, switch=switch)
