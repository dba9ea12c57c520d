"""The figures of the report: of the search (report_search_figures.py), of training and of latency."""

from __future__ import annotations

from collections.abc import Sequence

from autoformer.metric import WORDS, Metric
from autoformer.profiling.reports.blocks import (
    GREY,
    SERIES,
    SYMBOLS,
    Figure,
    Plot,
    common_layout,
    plain,
)
from autoformer.profiling.reports.latency import blocks_figure
from autoformer.profiling.reports.latency_figures import distribution_figure, table_figure, timeline_figure
from autoformer.profiling.reports.run_folder import Epoch, Run
from autoformer.profiling.reports.search_figures import candidates_figure, preferences_figure, progress_figure, shapes_figure
from autoformer.profiling.reports.wording import capital, score_text


def figures(run: Run) -> list[Figure]:
    """All figures that this run has the numbers for."""
    found = [
        candidates_figure(run),
        progress_figure(run),
        preferences_figure(run),
        shapes_figure(run),
        training_figure("supernet", "Training of the supernet", run.supernet_history, run.metric),
        training_figure("finetune", "Finetuning of the chosen network", run.finetune_history, run.metric),
        distribution_figure(run.profile.measurements),
        timeline_figure([*run.profile.measurements, run.profile.reference]),
        blocks_figure([run.layers]) if run.layers is not None else None,
        table_figure(run) if run.table is not None else None,
    ]
    return [figure for figure in found if figure is not None]


# --- training ----------------------------------------------------------------------------------------------------


def training_figure(name: str, title: str, history: Sequence[Epoch], metric: Metric) -> Figure:
    """Scores on the search part above, the loss below, over epochs."""
    names = list(dict.fromkeys(network for epoch in history for network in epoch.scores))
    traces: list[Plot] = []
    for index, network in enumerate(names):
        scored = [epoch for epoch in history if network in epoch.scores]
        scores = [epoch.scores[network] for epoch in scored]
        colour = SERIES[index % len(SERIES)]
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": plain(network), "line": {"color": colour},
                "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)]},
                "x": [epoch.epoch for epoch in scored],
                "y": [100 * score.value for score in scores],
                "error_y": {
                    "type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": colour,
                    "array": [100 * (score.high - score.value) for score in scores],
                    "arrayminus": [100 * (score.value - score.low) for score in scores],
                },
                "text": [
                    f"{plain(network)}, epoch {epoch.epoch}<br>{score_text(score.to_dict())}"
                    for epoch, score in zip(scored, scores, strict=True)
                ],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )  # fmt: skip
    traces.append(
        {
            "type": "scatter", "mode": "lines", "name": "loss", "xaxis": "x", "yaxis": "y2", "line": {"color": GREY},
            "x": [epoch.epoch for epoch in history],
            "y": [epoch.loss for epoch in history],
            "text": [
                f"epoch {epoch.epoch}: loss {epoch.loss:.4g}<br>learning rate {epoch.learning_rate:.2g}, {epoch.seconds:.2g} s"
                for epoch in history
            ],
            "hovertemplate": "%{text}<extra></extra>",
        }
    )  # fmt: skip
    layout = common_layout("epoch", f"{WORDS[metric]}, %")
    layout["xaxis"]["anchor"] = "y2"
    layout["yaxis"]["domain"] = [0.42, 1]
    layout["yaxis2"] = {"title": {"text": "loss"}, "domain": [0, 0.34], "anchor": "x"}
    return Figure(
        name=name,
        title=title,
        caption=(
            f"{capital(WORDS[metric])} on the search part with 95 % intervals where it was taken; mean loss of each epoch below."
        ),
        views={"": {"data": traces, "layout": layout}},
    )


# --- latency -----------------------------------------------------------------------------------------------------
