"""What a search finds: the candidates, the choice among them, what confirms it, and the file that keeps all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import LIMITS
from autoformer.errors import CheckpointError
from autoformer.files import read_json
from autoformer.metric import Metric, Score, metric_from, score, tied
from autoformer.search.baselines import is_uniform
from autoformer.search.candidate import Candidate, check_scores, known_best, packed, ranked, unpacked
from autoformer.search.pareto import nondominated_ranks

FORMAT = "autoformer/search/3"
NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found."""

    chosen: Candidate
    best: Candidate  # the highest score of those evaluated on all search images
    tied: tuple[Candidate, ...]  # cannot be told from the best on these images, the best included, cheapest first
    front: tuple[Candidate, ...]  # nothing evaluated on all images is both cheaper in FLOPs and better
    candidates: tuple[Candidate, ...]
    labels: NDArray[np.int64]  # of the search images, [n]
    searched: int  # the first so many candidates are what the method proposed; the others are baselines
    baselines: Mapping[str, Candidate] = field(default_factory=dict)  # "dearest", and the best "uniform" shape evaluated
    confirmation_labels: NDArray[np.int64] = field(default_factory=lambda: NOTHING)  # of the confirmation slice
    history: tuple[tuple[int, float], ...] = ()  # images evaluated, and the best score on all search images by then

    @property
    def metric(self) -> Metric:
        """What every candidate was scored by."""
        return self.best.score.metric

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; members are named by their number in `candidates`."""
        return {
            "chosen": self.chosen.number,
            "best": self.best.number,
            "tied": [candidate.number for candidate in self.tied],
            "front": [candidate.number for candidate in self.front],
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "metric": self.metric,
            "labels": packed(self.labels),
            "confirmation_labels": packed(self.confirmation_labels),
            "confirmation_images": len(self.confirmation_labels),
            "searched": self.searched,
            "baselines": {name: candidate.number for name, candidate in self.baselines.items()},
            "fronts": {name: [c.number for c in members] for name, members in fronts(self.candidates).items()},
        }

    @property
    def confirmed(self) -> dict[int, Score]:
        """The scores of the finalists on images that took no part in any choice, by the candidate's number."""
        return {
            candidate.number: score(candidate.confirmation, self.confirmation_labels, self.metric)
            for candidate in self.candidates
            if candidate.confirmation is not None
        }

    @property
    def images(self) -> dict[str, int]:
        """Images that may decide and that confirm; guesses asked for in all for either, and of these found stored; and how many
        candidates were evaluated on all search images."""
        confirming = sum(len(c.confirmation) for c in self.candidates if c.confirmation is not None)
        return {
            "search": len(self.labels),
            "confirmation": len(self.confirmation_labels),
            "evaluated": sum(len(candidate.predictions) for candidate in self.candidates),
            "confirming": confirming,
            "reused": sum(candidate.reused for candidate in self.candidates),
            "full": sum(len(candidate.predictions) == len(self.labels) for candidate in self.candidates),
        }

    def on_par(self, candidate: Candidate) -> bool:
        """Whether the chosen network cannot be told from `candidate` on the search images."""
        return tied(self.chosen.predictions, candidate.predictions, self.labels, self.metric)


def objectives(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """What a Pareto search makes small, [n, objectives]: the score with its sign turned, params, FLOPs, latency if known."""
    known = [measure for measure in LIMITS if all(getattr(c.cost, measure) is not None for c in candidates)]
    rows = [(-c.score.value, *(float(getattr(c.cost, measure)) for measure in known)) for c in candidates]
    return np.asarray(rows, np.float64)


def fronts(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """What nothing evaluated beats: in the score and one cost, by the name of the cost, and in the score and "all" of them.

    The cheapest by that cost (by FLOPs) first; of candidates known from most images. A cost that was not measured for all
    has no front.
    """
    found = {}
    candidates = known_best(candidates)
    for measure in LIMITS:
        if all(getattr(candidate.cost, measure) is not None for candidate in candidates):
            found[measure] = _front(candidates, measure)
    nothing_better = nondominated_ranks(objectives(candidates)) == 0
    both = [candidate for candidate, best in zip(candidates, nothing_better, strict=True) if best]
    found["all"] = sorted(both, key=lambda c: (c.cost.flops, c.number))
    return found


def _front(candidates: Sequence[Candidate], measure: str) -> list[Candidate]:
    found: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (getattr(c.cost, measure), -c.score.value, c.number)):
        if not found or candidate.score.value > found[-1].score.value:
            found.append(candidate)
    return found


def conclude(
    candidates: Sequence[Candidate],
    labels: NDArray[np.int64],
    choose: Literal["cheapest", "best"],
    *,
    searched: int | None = None,
    most_expensive: Architecture | None = None,
) -> SearchResult:
    """The choice among candidates that were evaluated on images with these `labels`, numbered from 0.

    Only those known from the most images can be chosen. The first `searched` are the method's (by default all), the others
    baselines; they can be chosen like any other. `dearest` is the dearest network inside the budget.
    """
    best = ranked(candidates)[0]
    metric, comparable = best.score.metric, known_best(candidates)
    labels = labels[: len(best.predictions)]
    equals = [candidate for candidate in comparable if tied(best.predictions, candidate.predictions, labels, metric)]
    equals.sort(key=lambda c: (c.cost.flops, c.number))
    known = {
        "dearest": [c for c in comparable if c.architecture == most_expensive],
        "uniform": ranked([c for c in comparable if is_uniform(c.architecture)]),
    }
    return SearchResult(
        chosen=equals[0] if choose == "cheapest" else best,
        best=best,
        tied=tuple(equals),
        front=tuple(_front(comparable, "flops")),
        candidates=tuple(candidates),
        labels=labels,
        searched=len(candidates) if searched is None else searched,
        baselines={name: members[0] for name, members in known.items() if members},
    )


def load_search(folder: Path) -> tuple[SearchResult, dict[str, Any]]:
    """A finished search and its record. Raises `CheckpointError` when `folder` holds none, naming what is missing."""
    path = folder / "search.json"
    record = read_json(path, "format", "result", "config", "latency_qualification")
    if record["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {record['format']!r}, expected {FORMAT!r}; search again")
    try:
        values = record["result"]
        every = tuple(Candidate.from_dict(value) for value in values["candidates"])
        labels = unpacked(values["labels"], max(len(candidate.predictions) for candidate in every))
        confirming = unpacked(values["confirmation_labels"], values["confirmation_images"])
        check_scores(every, labels, confirming, metric_from(values["metric"]))
        history = tuple((int(step["images"]), float(step["best"])) for step in _history(record))
        named = dict(values.get("baselines", {}))
        searched = values.get("searched", len(every))
        if searched not in range(len(every) + 1):
            raise ValueError(f"{str(searched)[:40]} of {len(every)} candidates were searched")
        for number in (values["chosen"], values["best"], *values["tied"], *values["front"], *named.values()):
            if number not in range(len(every)):
                raise ValueError(f"it names candidate {str(number)[:40]} of {len(every)}")
        return (
            SearchResult(
                chosen=every[values["chosen"]],
                best=every[values["best"]],
                tied=tuple(every[number] for number in values["tied"]),
                front=tuple(every[number] for number in values["front"]),
                candidates=every,
                labels=labels,
                searched=searched,
                baselines={name: every[number] for name, number in named.items()},
                confirmation_labels=confirming,
                history=history,
            ),
            record,
        )
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}; it was edited or damaged") from error
    except (CheckpointError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a search result: {error}") from error


def _history(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The steps of the one method; an answer from stored evaluations has none."""
    found: Sequence[Mapping[str, Any]] = record.get("history", {}).get(record["config"]["method"], ())
    return found
