"""Training in a report: losses and scores by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.metric import WORDS, Metric
from autoformer.profiling.reports.blocks import GREY, SERIES, SYMBOLS, Figure, Plot, Section, common_layout, plain
from autoformer.profiling.reports.run_folder import Epoch
from autoformer.profiling.reports.wording import capital, score_text, words_of


def section(report: Mapping[str, Any]) -> Section:
    """Both trainings in a sentence each, and their curves."""
    supernet, finetune = report["training"]["supernet"], report["training"]["finetune"]
    text = (
        f"Supernet: {len(supernet)} epochs, last loss {supernet[-1]['loss']:.3g}; every step trains one network of the space. "
        f"Finetuning: {len(finetune)} epochs, last loss {finetune[-1]['loss']:.3g}. The curves of the "
        f"{words_of(report)} are on the search part, with 95 % intervals."
    )
    return Section(name="training", title="Training", text=(text,), figures=("supernet", "finetune"))


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
