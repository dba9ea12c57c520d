"""Is a supernet worth searching? Its anchors and random networks, scored with inherited weights on images it has not seen.

A search can only order networks whose inherited scores differ by more than chance, and its winners are only as good as the
supernet's order is true. So two things are asked: whether scores differ between networks by more than chance, and whether
larger networks score better, as they should. (The largest network of the published supernet-T scores below middle ones.)
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import count_flops, count_params
from autoformer.evaluate import EvaluationSet, predict_with, predictions
from autoformer.metric import Metric, Score, chance_spread, kendall_tau, score, tied
from autoformer.networks.supernet import Supernet
from autoformer.progress import Progress, silent
from autoformer.records import fields_to_json

LEAST_SPREAD = 1.5  # times that of chance; of 32 equally good networks by any metric fewer than 5 % reach it


@dataclass(frozen=True)
class AuditedNetwork:
    """One network with its inherited score."""

    name: str
    architecture: Architecture
    params: int
    flops: int
    score: Score


@dataclass(frozen=True)
class Audit:
    """What was found, and what follows from it."""

    networks: tuple[AuditedNetwork, ...]  # anchors first
    spread: float  # standard deviation of the random networks' scores
    chance: float  # the spread that equally good networks would show, in the metric and on these images
    size_correlation: float  # Kendall's tau of FLOPs and score over the random networks
    searchable: bool
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"format": "autoformer/audit/1", **fields_to_json(self)}


def audit(
    supernet: Supernet,
    images: EvaluationSet,
    *,
    count: int = 32,
    seed: int = 0,
    metric: Metric = "top1",
    progress: Progress = silent,
) -> Audit:
    """Scores the anchors and `count` random networks of `supernet` on `images`."""
    rng, space = random.Random(seed), supernet.space
    chosen = dict(space.anchors)
    for number in range(count):
        chosen[f"random {number + 1}"] = space.sample(rng)
    networks, predicted = [], []
    for name, architecture in chosen.items():
        predicted.append(predictions(predict_with(supernet, architecture), images))
        networks.append(
            AuditedNetwork(
                name=name,
                architecture=architecture,
                params=count_params(architecture, space),
                flops=count_flops(architecture, space),
                score=score(predicted[-1], images.labels, metric),
            )
        )
        progress("audit", len(networks), len(chosen), f"{name} {networks[-1].score}")
    drawn = list(range(len(space.anchors), len(networks)))
    values = np.array([networks[index].score.value for index in drawn])
    spread = float(values.std(ddof=1)) if len(drawn) > 1 else 0.0
    chance = chance_spread([predicted[index] for index in drawn], images.labels, metric)
    correlation = kendall_tau([networks[index].flops for index in drawn], values.tolist())
    anchors = {network.name: index for index, network in enumerate(networks[: len(space.anchors)])}
    reasons = _reasons(networks, predicted, anchors, images.labels, metric, spread, chance, correlation)
    bad = [reason for reason, is_bad in reasons if is_bad]
    return Audit(tuple(networks), spread, chance, correlation, not bad, tuple(reason for reason, _ in reasons))


def _reasons(
    networks: list[AuditedNetwork],
    predicted: list[NDArray[np.int64]],
    anchors: dict[str, int],
    labels: NDArray[np.int64],
    metric: Metric,
    spread: float,
    chance: float,
    correlation: float,
) -> list[tuple[str, bool]]:
    """What speaks for and against searching, each with whether it speaks against."""
    found = []
    smallest, largest = anchors["smallest"], anchors["largest"]
    chance_rate = score(np.full(len(labels), np.bincount(labels).argmax()), labels, metric).value
    if networks[largest].score.low <= chance_rate:
        found.append(
            (f"the largest network ({networks[largest].score}) is no better than always predicting the largest class", True)
        )
    words = f"random networks spread by {100 * spread:.2f} points, {100 * chance:.2f} of which chance alone gives"
    found.append((words, spread <= LEAST_SPREAD * chance))
    found.append((f"FLOPs and score agree with tau {correlation:+.2f} over random networks", correlation < 0))
    if networks[largest].score.value < networks[smallest].score.value:
        weak = not tied(predicted[largest], predicted[smallest], labels, metric)
        found.append(("the largest network scores below the smallest", weak))
    best = max(networks, key=lambda network: network.score.value)
    if best.flops < networks[largest].flops and not tied(predicted[networks.index(best)], predicted[largest], labels, metric):
        share = 100 * best.flops / networks[largest].flops
        found.append((f"the largest network is weak: {best.name} beats it with {share:.0f} % of its FLOPs; train longer", False))
    return found
