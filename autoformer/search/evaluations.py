"""`Evaluations`: what a search has had evaluated, in order; done by this process, by others, or by an earlier search.

Every finished evaluation is in the study before the next begins. Processes that share a study divide the evaluations of a
stage among them, and each has the results of all when the stage ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.drawing.budgeted import Candidates
from autoformer.errors import CheckpointError, InterruptedRunError
from autoformer.metric import WORDS, Metric, score
from autoformer.progress import Progress
from autoformer.search.candidate import Candidate, check_scores, known_best
from autoformer.search.database import Claim, Study
from autoformer.search.rungs import Portions

Evaluate = Callable[[Architecture, slice], NDArray[np.int64]]  # the class it gives each of these images, [n]


@dataclass(frozen=True)
class Task:
    """A candidate to be evaluated on its first so many images; above those that decide: on the held-out ones."""

    number: int
    generation: int
    architecture: Architecture
    images: int


class Evaluations:
    """The evaluations of a search; those that `study` holds are not repeated, those in its store taken over."""

    poll_s = 0.2  # between looks at the study while other processes work on the rest of a stage

    def __init__(
        self,
        candidates: Candidates,
        evaluate: Evaluate,
        labels: NDArray[np.int64],
        portions: Portions,
        study: Study,
        metric: Metric,
        total: int,
        progress: Progress,
    ) -> None:
        """`labels` are of the images in their order; `total` candidates are expected."""
        self.candidates, self.evaluate, self.portions, self.study = candidates, evaluate, portions, study
        self.metric, self.total, self.progress = metric, total, progress
        self.labels, self.held_out_labels = labels[: portions.search], labels[portions.search :]
        self.stored: dict[tuple[int, int], Candidate] = {}
        self.events: list[Candidate] = []  # finished evaluations in the order of the search, whoever did them
        self._asked, self._busy_s = 0, 0.0  # images this process had evaluated, and the time they took
        self._read()
        for candidate in self.stored.values():  # a search that was killed may not have got to it
            self._keep(candidate)

    @property
    def finished(self) -> list[Candidate]:
        """Every candidate so far as it is known from the most images, by number."""
        latest = {event.number: event for event in self.events}
        return [latest[number] for number in sorted(latest)]

    def do(self, tasks: Sequence[Task]) -> None:
        """Has these evaluated, by this process or another."""
        wanted = {(task.number, task.images): task for task in tasks}
        before = {candidate.number: candidate for candidate in self.finished}
        self._check(wanted)  # before anything is added to a study that may be another's
        while missing := [key for key in wanted if key not in self.stored]:
            worked = False
            done: list[Candidate] = []
            for key in missing:
                with self.study.claim(*key) as claim:
                    if claim is Claim.FOREIGN:
                        continue
                    if claim is Claim.TAKEN_OVER:  # its holder may have finished it just before it ended
                        self._read()
                    if key not in self.stored:
                        self.stored[key] = self._evaluated(wanted[key], before.get(key[0]))
                        self.study.add(self.stored[key], self.candidates.space)
                        done.append(self.stored[key])
                    worked = True
                while done:  # the claim has been kept by now, whatever becomes of the cache
                    self._keep(done.pop())
                self._report()
            if not worked:
                time.sleep(self.poll_s)
            self._read()
        self._check(wanted)
        self.events += [self.stored[key] for key in wanted]
        self._report()

    def _check(self, wanted: Mapping[tuple[int, int], Task]) -> None:
        for key, task in wanted.items():
            if key in self.stored and self.stored[key].architecture != task.architecture:
                raise CheckpointError(
                    f"{self.study.place} holds another search: evaluation {task.number} is not the one this seed proposes; "
                    "search into another folder"
                )

    def _read(self) -> None:
        """What the study holds by now; checks what is new."""
        held = self.study.evaluations()
        new = {key: candidate for key, candidate in held.items() if key not in self.stored}
        try:
            check_scores(list(new.values()), self.labels, self.held_out_labels, self.metric)
        except CheckpointError as error:
            raise CheckpointError(f"{self.study.place} holds another search: {error}; search into another folder") from error
        self.stored |= new

    def _evaluated(self, task: Task, before: Candidate | None) -> Candidate:
        held_out = task.images > self.portions.search
        start = self.portions.search if held_out else 0 if before is None else len(before.predictions)
        known = np.empty(0, np.int64) if self.study.store is None else self.study.store.get(task.architecture, start, task.images)
        rest = slice(start + len(known), task.images)
        found = known
        if rest.start < rest.stop:
            began = time.perf_counter()
            try:
                found = np.concatenate([known, self.evaluate(task.architecture, rest)])
            except KeyboardInterrupt as stop:
                raise InterruptedRunError(
                    f"stopped after {task.number} of {self.total} candidates; run the same command again to go on"
                ) from stop
            self._asked, self._busy_s = self._asked + rest.stop - rest.start, self._busy_s + time.perf_counter() - began
        reused = len(known) + (0 if before is None else before.reused)
        if held_out:
            assert before is not None, "only a candidate that was evaluated is asked about held-out images"
            return replace(before, held_out=found, reused=reused)
        predictions = found if before is None else np.concatenate([before.predictions, found])
        return Candidate(
            number=task.number,
            generation=task.generation,
            architecture=task.architecture,
            cost=self.candidates.costs(task.architecture),
            predictions=predictions,
            score=score(predictions, self.labels[: task.images], self.metric),
            reused=reused,
        )

    def _keep(self, candidate: Candidate) -> None:
        if (store := self.study.store) is not None:
            store.put(candidate.architecture, 0, candidate.predictions)
            if candidate.held_out is not None:
                store.put(candidate.architecture, self.portions.search, candidate.held_out)

    def _report(self) -> None:
        latest = {number: self.stored[number, images] for number, images in sorted(self.stored)}
        if not latest:
            return
        best = max((candidate.score for candidate in known_best(list(latest.values()))), key=lambda score: score.value)
        words = [f"best {WORDS[self.metric]} {best.rounded}"]
        asked = sum(len(candidate.predictions) for candidate in latest.values())
        if cut := 1 - asked / (len(latest) * self.portions.search):
            words.append(f"{100 * cut:.0f} % of the images cut by halving")
        if self._busy_s:
            words.append(f"{self._asked / self._busy_s:,.0f} images/s")
        self.progress("search", len(latest), max(self.total, len(latest)), ", ".join(words))
