"""The search: ask for architectures inside the budget, score them on the search part, learn from the answers.

It knows numbers and choices, no networks: `search` takes any function from an architecture to the classes that it gives the
search images, and maximises the run's metric of them. What is proposed is the method's business (`proposals.py`); after it
the baselines (`baselines.py`) are evaluated on the same images, and may win.
Every finished evaluation is in the Optuna study before the next begins, and each generation is a pure function of the seed
and of the generations before it, so an interrupted search goes on to the same end, and so does one that several processes
share: they take the evaluations of a generation as they come, and wait for the last of them before the next.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray

from autoformer import __version__
from autoformer.architecture import Architecture
from autoformer.baselines import baselines
from autoformer.candidates import Candidates
from autoformer.checkpoint import claim_folder, json_digest, tensors_digest, write_json
from autoformer.claims import Claim
from autoformer.cost import Budget, CostModel
from autoformer.data import Part
from autoformer.errors import CheckpointError, DataError, InterruptedRunError
from autoformer.evaluate import WORDS, EvaluationSet, Metric, guesses, predict_with, score
from autoformer.preprocessing import Preprocessing
from autoformer.progress import Progress, silent
from autoformer.proposals import Proposals
from autoformer.search_config import SearchConfig
from autoformer.search_result import FORMAT, Candidate, SearchResult, check_scores, conclude
from autoformer.space_table import SpaceTable
from autoformer.study import Study
from autoformer.supernet import Supernet

Evaluate = Callable[[Architecture], NDArray[np.int64]]  # the class it gives each search image, [n]


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

    `evaluate` gives an architecture's guesses of the images with these `labels` [n]. Raises `CheckpointError` when the
    study holds another search, and `InterruptedRunError` on Ctrl-C; at most the evaluation in flight is lost.
    """
    compared = baselines(candidates, config.uniform_shapes, seed)
    total = config.generations * config.population + len(compared)
    work = Evaluations(candidates, evaluate, labels, study, metric, total, progress)
    proposals = Proposals(candidates, config, seed)
    for index in range(config.generations):
        proposed = proposals.generation(index, work.finished)
        if not proposed:  # the budget leaves no further architecture
            break
        work.do(index, proposed)
    searched = len(work.finished)
    known = {candidate.architecture for candidate in work.finished}
    work.do(config.generations, [architecture for architecture in compared if architecture not in known])
    if len(work.finished) < total:  # fewer architectures than asked for
        progress("search", len(work.finished), len(work.finished))
    return conclude(work.finished, labels, config.choose, searched=searched, dearest=compared[0])


class Evaluations:
    """The evaluations of a search in their order; those that the study holds are not repeated."""

    poll_s = 0.2  # between looks at the study while other processes work on the rest of a generation

    def __init__(
        self,
        candidates: Candidates,
        evaluate: Evaluate,
        labels: NDArray[np.int64],
        study: Study,
        metric: Metric,
        total: int,
        progress: Progress,
    ) -> None:
        self.candidates, self.evaluate, self.labels, self.study, self.metric = candidates, evaluate, labels, study, metric
        self.total, self.progress = total, progress
        self.finished: list[Candidate] = []
        self.stored: dict[int, Candidate] = {}
        self._read()

    def do(self, generation: int, architectures: Sequence[Architecture]) -> None:
        """Evaluates these and adds them to `finished` in their order.

        Other processes with the same study may do the same: each evaluation is done by one of them, and all have the results
        of all when this ends.
        """
        wanted = dict(enumerate(architectures, len(self.finished)))
        self._check(wanted)  # before anything is added to a study that may be another's
        while missing := [number for number in wanted if number not in self.stored]:
            worked = False
            for number in missing:
                with self.study.claim(number) as claim:
                    if claim is Claim.FOREIGN:
                        continue
                    if claim is Claim.TAKEN_OVER:  # its holder may have finished it just before it ended
                        self._read()
                    if number not in self.stored:
                        self.stored[number] = self._evaluated(number, generation, wanted[number])
                        self.study.add(self.stored[number])
                    worked = True
                self._report()
            if not worked:
                time.sleep(self.poll_s)
            self._read()
        self._check(wanted)
        self.finished += [self.stored[number] for number in wanted]
        self._report()

    def _check(self, wanted: Mapping[int, Architecture]) -> None:
        for number, architecture in wanted.items():
            if number in self.stored and self.stored[number].architecture != architecture:
                raise CheckpointError(
                    f"{self.study.place} holds another search: evaluation {number} is not the one this seed proposes; "
                    "search into another folder"
                )

    def _read(self) -> None:
        """What the study holds by now; checks what is new."""
        stored = self.study.candidates()
        new = [candidate for number, candidate in stored.items() if number not in self.stored]
        try:
            check_scores(new, self.labels, self.metric)
        except CheckpointError as error:
            raise CheckpointError(f"{self.study.place} holds another search: {error}; search into another folder") from error
        self.stored |= {candidate.number: candidate for candidate in new}

    def _report(self) -> None:
        if self.stored:
            best = max(candidate.score.value for candidate in self.stored.values())
            self.progress("search", len(self.stored), self.total, f"best {WORDS[self.metric]} {100 * best:.2f} %")

    def _evaluated(self, number: int, generation: int, architecture: Architecture) -> Candidate:
        try:
            found = self.evaluate(architecture)
        except KeyboardInterrupt as stop:
            raise InterruptedRunError(
                f"stopped after {number} of {self.total} evaluations; run the same command again to go on"
            ) from stop
        return Candidate(
            number=number,
            generation=generation,
            architecture=architecture,
            cost=self.candidates.costs(architecture),
            guesses=found,
            score=score(found, self.labels, self.metric),
        )


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
    latency_margin: float = 0.0,
    progress: Progress = silent,
) -> SearchResult:
    """Searches `supernet` for the best `metric` on the images of `part` (the search part); writes `out/search.json`, the study.

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
    identity = {
        "kind": "search",
        "space": space.to_dict(),
        "weights": weights_digest,
        "images": part.digest,
        "metric": metric,
        "budget": budget.to_dict(),
        "latency": None if costs.qualification is None else str(costs.qualification),
        "seed": seed,
        "search": config.model_dump(mode="json"),
    }
    claim_folder(out, identity)
    images = EvaluationSet.of(part, preprocessing)

    def evaluate(architecture: Architecture) -> NDArray[np.int64]:
        return guesses(predict_with(supernet, architecture), images, batch_size)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if storage is None:
            study = Study.in_folder(out, f"search-{seed}")
        else:  # the database may hold many searches
            study = Study(storage, f"search-{seed}-{json_digest(identity)[:12]}")
    result = search(
        candidates, evaluate, images.labels, config, study, metric=metric, seed=seed, progress=progress
    )  # fmt: skip
    record = {
        "format": FORMAT,
        "version": __version__,
        "space": space.to_dict(),
        "budget": budget.to_dict(),
        "latency_qualification": None if costs.qualification is None else costs.qualification.__dict__,
        "seed": seed,
        "config": config.model_dump(mode="json"),
        "space_table": SpaceTable.of(space, costs, budget).to_dict(),
        "latency_margin": latency_margin,
        "weights_digest": weights_digest,
        "images_digest": part.digest,
        "result": result.to_dict(),
        "history": {config.method: [{"images": images, "best": best} for images, best in result.history]},
    }
    write_json(record, out / "search.json")
    return result
