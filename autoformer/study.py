"""`Study`: the finished evaluations of one search, in an Optuna study."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import optuna

from autoformer.errors import AutoformerError, CheckpointError
from autoformer.search_result import Candidate, check_comparable


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

    def candidates(self) -> dict[int, Candidate]:
        """All finished evaluations by their number."""
        found = {}
        with self._storage():
            for trial in self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]):
                if "candidate" not in trial.user_attrs:
                    raise CheckpointError(f"trial {trial.number} lacks its candidate")
                candidate = Candidate.from_dict(json.loads(trial.user_attrs["candidate"]))
                found[candidate.number] = candidate
            check_comparable(list(found.values()))
        return found

    def add(self, candidate: Candidate) -> None:
        """Stores one finished evaluation, whole or not at all."""
        state = optuna.trial.TrialState.COMPLETE
        attributes = {"candidate": json.dumps(candidate.to_dict())}
        with self._storage():
            self.study.add_trial(optuna.create_trial(state=state, value=candidate.score.value, user_attrs=attributes))

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Optuna, SQLAlchemy and the drivers below share no base class
            words = str(error.__cause__ or error).strip() if not isinstance(error, AutoformerError) else str(error)
            reason = (words.splitlines() or [type(error).__name__])[0][:160]
            raise CheckpointError(f"{self.place} cannot be read as a study ({reason}); move it away to search anew") from error
