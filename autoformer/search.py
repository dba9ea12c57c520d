"""The search: ask for architectures inside the budget, score them on the search part, learn from the answers.

The evolution is the paper's (section 4.1; 20 generations of 50, the best 10 of all time as parents, 25 by mutation and 25
by crossover). It knows numbers and choices, no networks: `search` takes any function from an architecture to the images
it gets right.
Every finished evaluation is in the Optuna study before the next begins, and each generation is a pure function of the seed
and of what is in the study, so an interrupted search goes on to the same end.
"""

from __future__ import annotations

import json
import math
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from autoformer import __version__
from autoformer.architecture import Architecture
from autoformer.candidates import Candidates
from autoformer.checkpoint import claim_folder, read_json, replacing, tensors_digest, write_json
from autoformer.cost import Budget, Cost, CostModel
from autoformer.data import Part
from autoformer.errors import ArchitectureError, AutoformerError, CheckpointError, InterruptedRunError
from autoformer.evaluate import Accuracy, EvaluationSet, accuracy, correct, predict_with, tied
from autoformer.preprocessing import Preprocessing
from autoformer.progress import Progress, silent
from autoformer.supernet import Supernet

Evaluate = Callable[[Architecture], NDArray[np.bool_]]  # which search images it gets right, [n]

FORMAT = "autoformer/search/1"


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


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One evaluated architecture."""

    number: int  # in order of evaluation
    generation: int
    architecture: Architecture
    cost: Cost
    right: NDArray[np.bool_]  # which search images it gets right, [n]

    @property
    def accuracy(self) -> Accuracy:
        return accuracy(self.right)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `right` as the hexadecimal digits of its packed bits."""
        return {
            "number": self.number,
            "generation": self.generation,
            "architecture": self.architecture.to_dict(),
            "cost": {"params": self.cost.params, "flops": self.cost.flops, "latency_ms": self.cost.latency_ms},
            "images": len(self.right),
            "correct": int(self.right.sum()),
            "right": np.packbits(self.right).tobytes().hex(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Candidate:
        """Reads the JSON form. Raises `CheckpointError` naming what is missing or impossible."""
        try:
            packed, images = bytes.fromhex(values["right"]), values["images"]
            cost = Cost(**values["cost"])
            times = () if cost.latency_ms is None else (cost.latency_ms,)
            for number in (images, values["number"], values["generation"], cost.params, cost.flops):
                if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                    raise ValueError(f"{str(number)[:40]} is no count")
            if not all(isinstance(time, int | float) and 0 < time < math.inf for time in times):
                raise ValueError(f"latency_ms is {cost.latency_ms!r}")
            if not images or len(packed) != -(-images // 8):
                raise ValueError(f"{len(packed)} bytes of answers for {images} images")
            return cls(
                number=values["number"],
                generation=values["generation"],
                architecture=Architecture.from_dict(values["architecture"]),
                cost=cost,
                right=np.unpackbits(np.frombuffer(packed, np.uint8), count=images).astype(bool),
            )
        except KeyError as error:
            raise CheckpointError(f"a candidate lacks {error}; it was edited or damaged") from error
        except (ArchitectureError, AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"a candidate cannot be read: {error}; it was edited or damaged") from error


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found."""

    chosen: Candidate
    best: Candidate  # the highest accuracy on the search part
    tied: tuple[Candidate, ...]  # cannot be told from the best on these images, the best included, cheapest first
    front: tuple[Candidate, ...]  # nothing evaluated is both cheaper in FLOPs and more accurate
    candidates: tuple[Candidate, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; members are named by their number in `candidates`."""
        return {
            "chosen": self.chosen.number,
            "best": self.best.number,
            "tied": [candidate.number for candidate in self.tied],
            "front": [candidate.number for candidate in self.front],
            "candidates": [candidate.to_dict() for candidate in self.candidates],
        }


def conclude(candidates: Sequence[Candidate], choose: Literal["cheapest", "best"]) -> SearchResult:
    """The choice among evaluated candidates. Equal scores go to the cheaper, then to the earlier."""
    ranked = sorted(candidates, key=lambda c: (-c.accuracy.value, c.cost.flops, c.number))
    best = ranked[0]
    equals = sorted((c for c in ranked if tied(best.right, c.right)), key=lambda c: (c.cost.flops, c.number))
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cost.flops, -c.accuracy.value, c.number)):
        if not front or candidate.accuracy.value > front[-1].accuracy.value:
            front.append(candidate)
    return SearchResult(
        chosen=equals[0] if choose == "cheapest" else best,
        best=best,
        tied=tuple(equals),
        front=tuple(front),
        candidates=tuple(candidates),
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
            ranked = sorted(told, key=lambda c: (-c.accuracy.value, c.cost.flops, c.number))
            parents = [candidate.architecture for candidate in ranked[: config.parents]]

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
            check_common_images(found)
        return sorted(found, key=lambda candidate: candidate.number)

    def add(self, candidate: Candidate) -> None:
        """Stores one finished evaluation."""
        with self._storage():
            trial = self.study.ask()
            trial.set_user_attr("candidate", json.dumps(candidate.to_dict()))
            self.study.tell(trial, candidate.accuracy.value)

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Optuna, SQLAlchemy and the drivers below share no base class
            words = str(error.__cause__ or error).strip() if not isinstance(error, AutoformerError) else str(error)
            reason = (words.splitlines() or [type(error).__name__])[0][:160]
            raise CheckpointError(f"{self.place} cannot be read as a study ({reason}); move it away to search anew") from error


def check_common_images(candidates: Sequence[Candidate]) -> None:
    """Raises `CheckpointError` unless all were scored on equally many images."""
    if len(counts := {len(candidate.right) for candidate in candidates}) > 1:
        raise CheckpointError(f"candidates were scored on {sorted(counts)} images, expected the same for all")


def search(
    candidates: Candidates,
    evaluate: Evaluate,
    config: SearchConfig,
    study: Study,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> SearchResult:
    """Runs the search to its end, from whatever `study` already holds, and gives the choice.

    Raises `InterruptedRunError` on Ctrl-C; at most the evaluation in flight is lost.
    """
    evolution = Evolution(candidates, config, seed)
    stored = study.candidates()
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
                    right = evaluate(architecture)
                except KeyboardInterrupt as stop:
                    raise InterruptedRunError(
                        f"stopped after {number} of {total} evaluations; run the same command again to go on"
                    ) from stop
                cost = candidates.costs(architecture)
                candidate = Candidate(number=number, generation=index, architecture=architecture, cost=cost, right=right)
                study.add(candidate)
            finished.append(candidate)
            best = max(finished, key=lambda c: c.accuracy.value).accuracy.value
            progress("search", len(finished), total, f"best {100 * best:.2f} %")
        if len(finished) == len(earlier):
            break  # every architecture inside the budget is evaluated
    return conclude(finished, config.choose)


def search_supernet(
    supernet: Supernet,
    part: Part,
    preprocessing: Preprocessing,
    costs: CostModel,
    budget: Budget,
    config: SearchConfig,
    out: Path,
    *,
    seed: int = 0,
    batch_size: int = 256,
    storage: str | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """Searches `supernet` on the images of `part` (the search part) and writes `out/search.json` and the study.

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
        "budget": budget.to_dict(),
        "latency": None if costs.qualification is None else str(costs.qualification),
        "seed": seed,
        "search": config.model_dump(mode="json"),
    }
    claim_folder(out, identity)
    images = EvaluationSet.of(part, preprocessing)

    def evaluate(architecture: Architecture) -> NDArray[np.bool_]:
        return correct(predict_with(supernet, architecture), images, batch_size)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        name, file = f"search-{seed}", out / "study.db"
        if storage is None and not file.exists():
            with replacing(file) as beside:  # Optuna sets a database up in many steps; half of them cannot be gone on from
                Study(f"sqlite:///{beside}", name)
        study = Study(storage or f"sqlite:///{file}", name)
    result = search(candidates, evaluate, config, study, seed=seed, progress=progress)
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


def load_search(folder: Path) -> tuple[SearchResult, dict[str, Any]]:
    """A finished search and its record. Raises `CheckpointError` when `folder` holds none, naming what is missing."""
    path = folder / "search.json"
    record = read_json(path, "format", "result", "config", "latency_qualification")
    if record["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {record['format']!r}, expected {FORMAT!r}; search again")
    try:
        values = record["result"]
        every = tuple(Candidate.from_dict(value) for value in values["candidates"])
        check_common_images(every)
        for number in (values["chosen"], values["best"], *values["tied"], *values["front"]):
            if number not in range(len(every)):
                raise ValueError(f"it names candidate {str(number)[:40]} of {len(every)}")
        return (
            SearchResult(
                chosen=every[values["chosen"]],
                best=every[values["best"]],
                tied=tuple(every[number] for number in values["tied"]),
                front=tuple(every[number] for number in values["front"]),
                candidates=every,
            ),
            record,
        )
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}; it was edited or damaged") from error
    except (CheckpointError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a search result: {error}") from error
