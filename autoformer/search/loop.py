"""The search: ask for architectures inside the budget, score them on the search part, learn from the answers.

It knows numbers and choices, no networks: `search` takes any function from an architecture to the classes that it gives some
of the search images, and maximises the run's metric of them. What is proposed is the method's business (`methods.py`), on
which images it is judged that of the rungs (`rungs.py`); after it the baselines (`baselines.py`) are evaluated on all images
that decide, and may win, and so is a network that fills the budget, if none was. At the end the finalists (`finalists.py`) are
scored on held-out images, which have decided nothing.

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

from autoformer.architecture import Architecture
from autoformer.data.parts import Part
from autoformer.data.preprocessing import Preprocessing
from autoformer.drawing.budgeted import Candidates
from autoformer.errors import DataError
from autoformer.evaluate import EvaluationSet, ResidentImages, precision_on
from autoformer.files import IDENTITY, claim_folder, json_digest, read_json
from autoformer.metric import Metric
from autoformer.networks.supernet import Supernet
from autoformer.progress import Progress, silent
from autoformer.search.baselines import baselines
from autoformer.search.benefit import BlockBenefits
from autoformer.search.candidate import Candidate
from autoformer.search.config import Goal, SearchConfig
from autoformer.search.database import EvaluationStore, Study
from autoformer.search.evaluations import Evaluate, Evaluations, Task
from autoformer.search.finalists import cheapest_finalists, finalists, network_to_fill
from autoformer.search.methods import Proposals
from autoformer.search.record import SearchRecord
from autoformer.search.result import SearchResult, Step, conclude
from autoformer.search.rungs import Portions, balanced_order
from autoformer.search.sizing import SearchPlan
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
    progress: Progress = silent,
) -> SearchResult:
    """Runs the search to its end, from whatever `study` already holds, and gives the choice by `metric`.

    `evaluate` gives an architecture's predictions for a slice of the images with these `labels` [n], which stand in the order
    that the rungs take them in (`balanced_order`). Raises `CheckpointError` when the study holds another search, and
    `InterruptedRunError` on Ctrl-C; at most the evaluation in flight is lost.
    """
    portions, plan = Portions.of(len(labels), config), SearchPlan.of(len(labels), config)
    compared = baselines(candidates, config.uniform_shapes, seed)
    total = plan.candidates + len(compared)
    work = Evaluations(candidates, evaluate, labels, portions, study, metric, total, progress)
    space, decide = candidates.space, labels[: portions.search]
    benefits = BlockBenefits.measured(space, evaluate, decide, metric) if space.lacks_parts else None
    proposals = Proposals(candidates, config, seed, benefits)
    for index in range(plan.generations):
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

    def in_full(networks: Sequence[Architecture]) -> None:
        known = {candidate.architecture: candidate for candidate in work.finished}
        fresh = [network for network in networks if network not in known]
        short = [known[network] for network in networks if network in known and len(known[network].predictions) < portions.search]
        work.do(
            [again(candidate, portions.search) for candidate in short]
            + [Task(len(known) + place, plan.generations, network, portions.search) for place, network in enumerate(fresh)]
        )

    def concluded() -> SearchResult:
        labelled = labels[: portions.search]
        return conclude(work.finished, labelled, config.choose, searched=searched, most_expensive=compared[0])

    in_full(compared)
    if not study.begun_before and (fuller := network_to_fill(candidates, concluded(), seed)) is not None:
        in_full([fuller])
    if len(work.finished) < total:  # fewer architectures than asked for
        progress("search", len(work.finished), len(work.finished))
    if portions.held_out:
        found, count = concluded(), config.finalists
        last = cheapest_finalists(found, count) if study.begun_before else finalists(found, candidates.budget, count)
        work.do([again(candidate, len(labels)) for candidate in last])
    return replace(concluded(), held_out_labels=labels[portions.search :], history=history)


def again(candidate: Candidate, images: int) -> Task:
    """To evaluate a candidate on more images than before."""
    return Task(candidate.number, candidate.generation, candidate.architecture, images)


def best_so_far(events: Sequence[Candidate], images: int) -> Iterator[Step]:
    """Where the best score on all `images` rose, and the end."""
    asked: dict[int, int] = {}  # by candidate
    best = -1.0
    for event in events:
        asked[event.number] = len(event.predictions)
        if len(event.predictions) == images and event.score.value > best:
            best = event.score.value
            yield Step(sum(asked.values()), best)
    if events and best >= 0:
        yield Step(sum(asked.values()), best)


def search_supernet(
    supernet: Supernet,
    part: Part,
    preprocessing: Preprocessing,
    goal: Goal,
    config: SearchConfig,
    out: Path,
    *,
    memory: str | Path | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """Searches `supernet` for `goal` on the images of `part` (the search part); writes `out/search.json` and the study.

    Called again with the same arguments it goes on where it stopped; called by several processes at once, they share the
    work. `memory` keeps predictions for other searches: those that an earlier one of the same weights, images and precision
    got are not asked for again. A file keeps these alone and the study lies in `out`; a database that processes on several
    hosts reach, as an Optuna URL, keeps both.
    Raises `BudgetError` when no network keeps the budget, `OutputExistsError` when `out` holds another search, `DataError` when
    given the test part. The record names the number of generations that `SearchPlan` fixed, where `config` names none.
    """
    if part.name == "test":
        raise DataError("a search was given the test part, which no choice may see; give it the search part")
    config = SearchPlan.of(len(part), config).config
    space, costs, meaning = supernet.space, goal.costs, goal.costs.measurement_conditions
    candidates = Candidates(space, costs, goal.budget)
    precision = precision_on(next(supernet.parameters()).device, config.precision)
    weights = tensors_digest(supernet.state_dict())
    seen = {
        "weights": weights,
        "images": part.digest,
        "preprocessing": preprocessing.to_dict(),
        "order": "balanced",
        "precision": precision,
    }
    identity = {
        "kind": "search",
        "space": space.to_dict(),
        **seen,
        "metric": goal.metric,
        "budget": goal.budget.to_dict(),
        "latency": None if meaning is None else str(meaning),
        "latency_ms": [costs(end).latency_ms for end in (space.smallest, space.middle, space.largest)],
        "seed": goal.seed,
        "search": config.to_dict(),
    }
    begun_before = holds_earlier_search(out)
    if not begun_before:
        identity["finalists"] = "along the tied set"
    claim_folder(out, identity)
    images = EvaluationSet.of(part, preprocessing).chosen(balanced_order(part.labels))
    resident = ResidentImages(images, supernet, precision)
    place = memory
    if isinstance(memory, Path) and not os.access(memory if memory.exists() else memory.parent, os.W_OK):
        place = None
    store = None if place is None else EvaluationStore(place, {**seen, "space": space.to_dict()}, space.num_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if isinstance(memory, str):  # the database may hold many searches
            study = Study(memory, f"search-{goal.seed}-{json_digest(identity)[:12]}", store, begun_before)
        else:
            study = Study.in_folder(out, f"search-{goal.seed}", store, begun_before)
    result = search(
        candidates, resident.predictions, images.labels, config, study, metric=goal.metric, seed=goal.seed, progress=progress
    )
    SearchRecord(
        result=result,
        space=space,
        budget=goal.budget,
        measurement_conditions=meaning,
        config=config,
        latency_margin=goal.latency_margin,
        seed=goal.seed,
        weights_digest=weights,
        images_digest=part.digest,
        images={**result.images, "rungs": Portions.of(len(images), config).rungs, "precision": precision},
        history={config.method: result.history},
        space_table=SpaceTable.of(space, costs, goal.budget).to_dict(),
    ).save(out)
    return result


def holds_earlier_search(out: Path) -> bool:
    """Whether a search lies there that began before finalists were taken along the whole tied set; it ends as it would have."""
    identity = out / IDENTITY
    return identity.exists() and "finalists" not in read_json(identity)
