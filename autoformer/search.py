"""The search: ask for architectures inside the budget, score them on the search part, learn from the answers.

The evolution is the paper's (section 4.1; 20 generations of 50, the best 10 of all time as parents, 25 by mutation and 25
by crossover). It knows numbers and choices, no networks: `search` takes any function from an architecture to the classes
that it gives the search images, and maximises the run's metric of them.
Every finished evaluation is in the Optuna study before the next begins, and each generation is a pure function of the seed
and of what is in the study, so an interrupted search goes on to the same end.
"""

from __future__ import annotations

import json
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from autoformer import __version__
from autoformer.architecture import Architecture
from autoformer.candidates import Candidates
from autoformer.checkpoint import claim_folder, replacing, tensors_digest, write_json
from autoformer.cost import Budget, CostModel
from autoformer.data import Part
from autoformer.errors import AutoformerError, CheckpointError, InterruptedRunError
from autoformer.evaluate import WORDS, EvaluationSet, Metric, guesses, predict_with, score
from autoformer.preprocessing import Preprocessing
from autoformer.progress import Progress, silent
from autoformer.search_result import FORMAT, Candidate, SearchResult, check_comparable, check_scores, conclude, ranked
from autoformer.supernet import Supernet

Evaluate = Callable[[Architecture], NDArray[np.int64]]  # the class it gives each search image, [n]


class SearchConfig(BaseModel):
    """How the search goes. The defaults are the paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["evolution", "random"] = Field("evolution", description="random: every generation drawn anew")
    population: int = Field(50, gt=1, description="architectures in a generation")
    generations: int = Field(20, gt=0, description="the first is random")
    parents: int = Field(10, gt=0, description="the best of all so far that mutate and cross")
    mutated: int = Field(25, ge=0, description="architectures of a generation made by mutation")
    crossed: int = Field(25, ge=0, description="architectures of a generation made by crossover")
    shape_probability: float = Field(0.2, ge=0, le=1, description="mutation of depth, width and image size")
    block_probability: float = Field(0.4, ge=0, le=1, description="mutation of a block's heads and MLP ratio")
    choose: Literal["cheapest", "best"] = Field(
        "cheapest", description="among the candidates that cannot be told from the best: the fewest FLOPs, or the best score"
    )


class Evolution:
    """Proposes generations; knows only what it is told."""

    def __init__(self, candidates: Candidates, config: SearchConfig, seed: int) -> None:
        self.candidates, self.config, self.seed = candidates, config, seed

    def generation(self, index: int, told: Sequence[Candidate]) -> list[Architecture]:
        """The architectures of generation `index`, given every earlier candidate: a pure function of both and the seed.

        May be shorter than the population where the budget leaves few architectures; empty when none is left.
        """
        config, space = self.config, self.candidates.space
        rng = random.Random(f"{self.seed}/generation/{index}")
        known = {candidate.architecture for candidate in told}
        found: list[Architecture] = []
        if index and config.method == "evolution":
            parents = [candidate.architecture for candidate in ranked(told)[: config.parents]]

            def mutation(rng: random.Random) -> Architecture:
                return space.mutate(
                    rng.choice(parents),
                    rng,
                    shape_probability=config.shape_probability,
                    block_probability=config.block_probability,
                )

            def crossover(rng: random.Random) -> Architecture:
                return space.crossover(rng.choice(parents), rng.choice(parents), rng)

            found += self.candidates.distinct(rng, min(config.mutated, config.population), known, mutation)
            found += self.candidates.distinct(rng, min(config.crossed, config.population - len(found)), known, crossover)
        return found + self.candidates.distinct(rng, config.population - len(found), known)


class Study:
    """The evaluations of one search in an Optuna study, one trial each. `storage` is any URL Optuna takes; None: memory.

    Every method raises `CheckpointError` naming the storage when it is damaged or holds something else.
    """

    def __init__(self, storage: str | None, name: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        shown = "the study in memory" if storage is None else storage.removeprefix("sqlite:///")
        self.place = re.sub(r"//[^@/]*@", "//", shown)  # a URL may hold a password
        with self._storage():
            self.study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
            for trial in self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its process died; it is evaluated again

    def candidates(self) -> list[Candidate]:
        """All finished evaluations in order."""
        found = []
        with self._storage():
            for trial in self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]):
                if "candidate" not in trial.user_attrs:
                    raise CheckpointError(f"trial {trial.number} lacks its candidate")
                found.append(Candidate.from_dict(json.loads(trial.user_attrs["candidate"])))
            check_comparable(found)
        return sorted(found, key=lambda candidate: candidate.number)

    def add(self, candidate: Candidate) -> None:
        """Stores one finished evaluation."""
        with self._storage():
            trial = self.study.ask()
            trial.set_user_attr("candidate", json.dumps(candidate.to_dict()))
            self.study.tell(trial, candidate.score.value)

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Optuna, SQLAlchemy and the drivers below share no base class
            words = str(error.__cause__ or error).strip() if not isinstance(error, AutoformerError) else str(error)
            reason = (words.splitlines() or [type(error).__name__])[0][:160]
            raise CheckpointError(f"{self.place} cannot be read as a study ({reason}); move it away to search anew") from error


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
    evolution = Evolution(candidates, config, seed)
    stored = study.candidates()
    try:
        check_scores(stored, labels, metric)
    except CheckpointError as error:
        raise CheckpointError(f"{study.place} holds another search: {error}; search into another folder") from error
    finished: list[Candidate] = []
    total = config.generations * config.population
    for index in range(config.generations):
        earlier = list(finished)
        for architecture in evolution.generation(index, earlier):
            number = len(finished)
            if number < len(stored):
                candidate = stored[number]
                if candidate.architecture != architecture:
                    raise CheckpointError(
                        f"the study holds another search: evaluation {number} is not the one this seed proposes"
                    )
            else:
                try:
                    found = evaluate(architecture)
                except KeyboardInterrupt as stop:
                    raise InterruptedRunError(
                        f"stopped after {number} of {total} evaluations; run the same command again to go on"
                    ) from stop
                cost = candidates.costs(architecture)
                candidate = Candidate(
                    number=number, generation=index, architecture=architecture, cost=cost, guesses=found,
                    score=score(found, labels, metric),
                )  # fmt: skip
                study.add(candidate)
            finished.append(candidate)
            best = max(candidate.score.value for candidate in finished)
            progress("search", len(finished), total, f"best {WORDS[metric]} {100 * best:.2f} %")
        if len(finished) == len(earlier):
            break  # every architecture inside the budget is evaluated
    return conclude(finished, labels, config.choose)


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
    progress: Progress = silent,
) -> SearchResult:
    """Searches `supernet` for the best `metric` on the images of `part` (the search part); writes `out/search.json`, the study.

    Called again with the same arguments it goes on where it stopped. Raises `BudgetError` when no network keeps the budget,
    `OutputExistsError` when `out` holds another search.
    """
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
        name, file = f"search-{seed}", out / "study.db"
        if storage is None and not file.exists():
            with replacing(file) as beside:  # Optuna sets a database up in many steps; half of them cannot be gone on from
                Study(f"sqlite:///{beside}", name)
        study = Study(storage or f"sqlite:///{file}", name)
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
        "weights_digest": weights_digest,
        "images_digest": part.digest,
        "result": result.to_dict(),
    }
    write_json(record, out / "search.json")
    return result
