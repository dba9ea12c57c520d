"""The search: ask for architectures inside the budget, score them on the search part, learn from the answers.

It knows numbers and choices, no networks: `search` takes any function from an architecture to the classes that it gives some
of the search images, and maximises the run's metric of them. What is proposed is the method's business (`proposals.py`), on
which images it is judged that of the rungs (`rungs.py`); after it the baselines (`baselines.py`) are evaluated on all images
that decide, and may win. At the end the finalists are scored on images that have decided nothing.

Each stage is a pure function of the seed and of the stages before it, so an interrupted search goes on to the same end, and
so does one that several processes share (`evaluations.py`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray

from autoformer import __version__
from autoformer.budgeted import Candidates
from autoformer.cost import Budget, CostModel
from autoformer.data.parts import Part
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import DataError
from autoformer.evaluate import EvaluationSet, ResidentImages, precision_on
from autoformer.files import claim_folder, json_digest, write_json
from autoformer.metric import Metric
from autoformer.networks.supernet import Supernet
from autoformer.progress import Progress, silent
from autoformer.search.baselines import baselines
from autoformer.search.candidate import Candidate
from autoformer.search.config import SearchConfig
from autoformer.search.database import EvaluationStore, Study
from autoformer.search.evaluations import Evaluate, Evaluations, Task
from autoformer.search.methods import Proposals
from autoformer.search.result import FORMAT, SearchResult, conclude
from autoformer.search.rungs import Portions, balanced_order
from autoformer.search.space_table import SpaceTable
from autoformer.tensors import tensors_digest


def search(
    candidates: Candidates,
    evaluate: Evaluate,
    labels: NDArray[np.int64],
    config: SearchConfig,
    study: Study,
    *,
    metric: Metric = "top1",
    seed: int = 0,
    store: EvaluationStore | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """Runs the search to its end, from whatever `study` already holds, and gives the choice by `metric`.

    `evaluate` gives an architecture's guesses of a slice of the images with these `labels` [n], which stand in the order that
    the rungs take them in (`balanced_order`); `store` spares those it knows. Raises `CheckpointError` when the
    study holds another search, and `InterruptedRunError` on Ctrl-C; at most the evaluation in flight is lost.
    """
    portions = Portions.of(len(labels), config)
    compared = baselines(candidates, config.uniform_shapes, seed)
    total = config.generations * config.population + len(compared)
    work = Evaluations(candidates, evaluate, labels, portions, study, store, metric, total, progress)
    proposals = Proposals(candidates, config, seed)
    for index in range(config.generations):
        proposed = proposals.generation(index, work.finished)
        if not proposed:  # the budget leaves no further architecture
            break
        first = len(work.finished)
        work.do([Task(first + place, index, network, portions.rungs[0]) for place, network in enumerate(proposed)])
        for rung in range(1, len(portions.rungs)):
            count = portions.promoted(rung, config.population)
            up = proposals.promoted(work.finished, portions.rungs[rung - 1], count)
            work.do([again(candidate, portions.rungs[rung]) for candidate in up])
    searched, history = len(work.finished), tuple(best_so_far(work.events, portions.search))
    known = {candidate.architecture: candidate for candidate in work.finished}
    fresh = [network for network in compared if network not in known]
    short = [known[network] for network in compared if network in known and len(known[network].predictions) < portions.search]
    work.do(
        [again(candidate, portions.search) for candidate in short]
        + [Task(searched + place, config.generations, network, portions.search) for place, network in enumerate(fresh)]
    )
    if len(work.finished) < total:  # fewer architectures than asked for
        progress("search", len(work.finished), len(work.finished))

    def concluded() -> SearchResult:
        labelled = labels[: portions.search]
        return conclude(work.finished, labelled, config.choose, searched=searched, most_expensive=compared[0])

    if portions.confirmation:
        work.do([again(candidate, len(labels)) for candidate in finalists(concluded(), config.finalists)])
    return replace(concluded(), confirmation_labels=labels[portions.search :], history=history)


def again(candidate: Candidate, images: int) -> Task:
    """To evaluate a candidate on more images than before."""
    return Task(candidate.number, candidate.generation, candidate.architecture, images)


def finalists(result: SearchResult, count: int) -> list[Candidate]:
    """Whose scores are confirmed: the chosen, the best, the baselines, and the first `count` of those tied with the best."""
    named = (result.chosen, result.best, *result.baselines.values(), *result.tied[:count])
    return sorted({candidate.number: candidate for candidate in named}.values(), key=lambda candidate: candidate.number)


def best_so_far(events: Sequence[Candidate], images: int) -> Iterator[tuple[int, float]]:
    """Images evaluated, and the best score on all `images` by then: wherever it rose, and at the end."""
    asked: dict[int, int] = {}  # by candidate
    best = -1.0
    for event in events:
        asked[event.number] = len(event.predictions)
        if len(event.predictions) == images and event.score.value > best:
            best = event.score.value
            yield sum(asked.values()), best
    if events and best >= 0:
        yield sum(asked.values()), best


def search_supernet(
    supernet: Supernet,
    part: Part,
    preprocessing: Preprocessing,
    costs: CostModel,
    budget: Budget,
    config: SearchConfig,
    out: Path,
    *,
    metric: Metric = "top1",
    seed: int = 0,
    batch_size: int = 256,
    storage: str | None = None,
    stored: Path | None = None,
    latency_margin: float = 0.0,
    progress: Progress = silent,
) -> SearchResult:
    """Searches `supernet` for the best `metric` on the images of `part` (the search part); writes `out/search.json`, the study.

    Guesses that an earlier search of the same weights, images and precision got are not asked for again: they are kept in the
    database `storage`, or else in the file `stored` (None: not at all), usually beside the supernet.

    `latency_margin` says by how much the latency limit was tightened before (`within_margin`); it is recorded, so that a
    later answer from the same evaluations keeps it too.
    Called again with the same arguments it goes on where it stopped; called by several processes at once, they share the
    work. `storage` is a database that processes on several hosts reach, as an Optuna URL; None: a file in `out`.
    Raises `BudgetError` when no network keeps the budget, `OutputExistsError` when `out` holds another search, `DataError` when
    given the test part.
    """
    if part.name == "test":
        raise DataError("a search was given the test part, which no choice may see; give it the search part")
    space = supernet.space
    candidates = Candidates(space, costs, budget)
    weights_digest = tensors_digest(supernet.state_dict())
    precision = precision_on(next(supernet.parameters()).device, config.precision)
    seen = {
        "weights": weights_digest,
        "images": part.digest,
        "preprocessing": preprocessing.to_dict(),
        "order": "balanced",
        "precision": precision,
    }
    identity = {
        "kind": "search",
        "space": space.to_dict(),
        **seen,
        "metric": metric,
        "budget": budget.to_dict(),
        "latency": None if costs.measurement_conditions is None else str(costs.measurement_conditions),
        "latency_ms": [costs(end).latency_ms for end in (space.smallest, space.middle, space.largest)],
        "seed": seed,
        "search": config.model_dump(mode="json"),
    }
    claim_folder(out, identity)
    images = EvaluationSet.of(part, preprocessing).chosen(balanced_order(part.labels))
    resident = ResidentImages(images, supernet, precision, batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if storage is None:
            study = Study.in_folder(out, f"search-{seed}")
        else:  # the database may hold many searches
            study = Study(storage, f"search-{seed}-{json_digest(identity)[:12]}")
    place = storage
    if storage is None and stored is not None and os.access(stored if stored.exists() else stored.parent, os.W_OK):
        place = f"sqlite:///{stored}"
    store = None if place is None else EvaluationStore(place, {**seen, "space": space.to_dict()}, space.num_classes)
    result = search(
        candidates, resident.predictions, images.labels, config, study, metric=metric, seed=seed, store=store, progress=progress
    )
    record = {
        "format": FORMAT,
        "version": __version__,
        "space": space.to_dict(),
        "budget": budget.to_dict(),
        "latency_qualification": None if costs.measurement_conditions is None else costs.measurement_conditions.__dict__,
        "seed": seed,
        "config": config.model_dump(mode="json"),
        "space_table": SpaceTable.of(space, costs, budget).to_dict(),
        "latency_margin": latency_margin,
        "weights_digest": weights_digest,
        "images_digest": part.digest,
        "images": {**result.images, "rungs": Portions.of(len(images), config).rungs, "precision": precision},
        "result": result.to_dict(),
        "history": {config.method: [{"images": asked, "best": best} for asked, best in result.history]},
    }
    write_json(record, out / "search.json")
    return result
