"""Is a supernet worth searching? Its anchors and random networks, scored with inherited weights on images it has not seen.

A search can only order networks whose inherited scores differ by more than chance, and its winners are only as good as the
supernet's order is true. So two things are asked: whether scores differ between networks by more than chance, and whether
larger networks score better, as they should. (The largest network of the published supernet-T scores below middle ones.)

`audit` evaluates the anchors and networks of the whole space for it. `searchability` asks the same two things of a finished
search, whose first generation is random networks inside the budget: it evaluates nothing, and says whether the order of that
search is more than chance. Sizes inside a budget are close together, so there only a tau that is significantly negative counts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import count_flops, count_params
from autoformer.metric import Metric, Score, chance_spread, kendall_tau, score, tied
from autoformer.progress import Progress, silent
from autoformer.records import fields_to_json
from autoformer.search.result import SearchResult

if TYPE_CHECKING:
    from autoformer.evaluate import EvaluationSet
    from autoformer.networks.supernet import Supernet

LEAST_SPREAD = 1.5  # times that of chance; of 32 equally good networks by any metric fewer than 5 % reach it
LEAST_NETWORKS = 6  # of a search's first generation; of 6 equally good networks about 5 % reach that spread
NEGATIVE = -1.645  # standard deviations of tau without any relation: the lower 5 %


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
    from autoformer.evaluate import predict_with, predictions

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
    flops = [networks[index].flops for index in drawn]
    spread, chance, correlation = _numbers([predicted[index] for index in drawn], flops, images.labels, metric)
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
    found.append((_spread_words(spread, chance), spread <= LEAST_SPREAD * chance))
    found.append((f"{_tau_words(correlation)} over random networks", correlation < 0))
    if networks[largest].score.value < networks[smallest].score.value:
        weak = not tied(predicted[largest], predicted[smallest], labels, metric)
        found.append(("the largest network scores below the smallest", weak))
    best = max(networks, key=lambda network: network.score.value)
    if best.flops < networks[largest].flops and not tied(predicted[networks.index(best)], predicted[largest], labels, metric):
        share = 100 * best.flops / networks[largest].flops
        found.append((f"the largest network is weak: {best.name} beats it with {share:.0f} % of its FLOPs; train longer", False))
    return found


def _numbers(
    predicted: Sequence[NDArray[np.int64]], flops: Sequence[int], labels: NDArray[np.int64], metric: Metric
) -> tuple[float, float, float]:
    """The spread of the scores, that of chance alone, and tau of FLOPs and score."""
    values = np.array([score(one, labels, metric).value for one in predicted])
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return spread, chance_spread(predicted, labels, metric), kendall_tau(flops, values.tolist())


def _spread_words(spread: float, chance: float) -> str:
    return f"random networks spread by {100 * spread:.2f} points, and by {100 * chance:.2f} if they were alike, by chance alone"


def _tau_words(correlation: float) -> str:
    return f"FLOPs and score agree with tau {correlation:+.2f}"


# --- of a finished search ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Searchability:
    """Whether inherited scores put the networks of a search in an order that is more than chance."""

    networks: int  # random ones, of the first generation
    images: int  # that all of them saw
    spread: float  # as in `Audit`
    chance: float
    size_correlation: float
    searchable: bool
    advice: str  # what to do; empty where it is searchable

    def __str__(self) -> str:
        found = f"{_spread_words(self.spread, self.chance)}; {_tau_words(self.size_correlation)}"
        where = f"{self.networks} networks inside the budget, {self.images} images"
        return f"the supernet is {'searchable' if self.searchable else f'not searchable: {self.advice}'} ({found}; {where})"


def searchability(result: SearchResult) -> Searchability | None:
    """From the evaluations that a search has made anyway; None where its first generation is too small to tell."""
    drawn = [candidate for candidate in result.candidates[: result.searched] if candidate.generation == 0]
    if len(drawn) < LEAST_NETWORKS:
        return None
    images = min(len(candidate.predictions) for candidate in drawn)
    predicted, flops = [candidate.predictions[:images] for candidate in drawn], [candidate.cost.flops for candidate in drawn]
    spread, chance, correlation = _numbers(predicted, flops, result.labels[:images], result.metric)
    count = len(drawn)
    deviation = (2 * (2 * count + 5) / (9 * count * (count - 1))) ** 0.5  # of Kendall's tau where there is no relation
    advice = []
    if spread <= LEAST_SPREAD * chance:
        advice.append("the order of its networks is little more than chance")
    if correlation < NEGATIVE * deviation:
        advice.append("larger networks score worse")
    if advice:
        # Read after a search alone, after a run without a race, and after one that a race decided: true in each.
        advice.append(
            "by these scores alone a homogeneous network may be as good; a race, after finetuning, does not rest on them"
        )
        advice.append("longer training (train.epochs) or more images to search on (data.search_fraction) help")
    return Searchability(
        networks=count, images=images, spread=spread, chance=chance, size_correlation=correlation, searchable=not advice,
        advice="; ".join(advice),
    )  # fmt: skip
