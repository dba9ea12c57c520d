"""`Study`: the finished evaluations of one search, in an Optuna study, and who is at the others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import optuna

from autoformer.checkpoint import replacing
from autoformer.claims import Claim, Claims
from autoformer.errors import AutoformerError, CheckpointError
from autoformer.evaluated import Candidate


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
            self._claims = None if storage is None else Claims(storage, name)
        self._read: dict[int, Candidate] = {}  # by the number of the trial, which never changes

    @classmethod
    def in_folder(cls, folder: Path, name: str) -> Study:
        """The study in `folder/study.db`, made if it is missing; several processes may ask at once."""
        import fcntl

        file = folder / "study.db"
        with (folder / ".study.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits; ends with the process
            if not file.exists():
                with replacing(file) as beside:  # Optuna sets a database up in many steps; half of them cannot be gone on from
                    cls(f"sqlite:///{beside}", name)
            return cls(f"sqlite:///{file}", name)

    def evaluations(self) -> dict[tuple[int, int], Candidate]:
        """Every finished evaluation by the candidate's number and the images it is known from, those that confirm counted."""
        found = {}
        with self._storage():
            for trial in self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]):
                if trial.number not in self._read:
                    if "candidate" not in trial.user_attrs:
                        raise CheckpointError(f"trial {trial.number} lacks its candidate")
                    self._read[trial.number] = Candidate.from_dict(json.loads(trial.user_attrs["candidate"]))
                candidate = self._read[trial.number]
                found[candidate.number, candidate.known] = candidate
        return found

    def add(self, candidate: Candidate) -> None:
        """Stores one finished evaluation, whole or not at all."""
        state = optuna.trial.TrialState.COMPLETE
        attributes = {"candidate": json.dumps(candidate.to_dict())}
        with self._storage():
            self.study.add_trial(optuna.create_trial(state=state, value=candidate.score.value, user_attrs=attributes))

    @contextmanager
    def claim(self, number: int, images: int) -> Iterator[Claim]:
        """Tries to make an evaluation this process's own while the block runs. In memory there are no others."""
        if self._claims is None:
            yield Claim.FRESH
            return
        with ExitStack() as stack:
            with self._storage():
                found = stack.enter_context(self._claims.claim(number, images))
            yield found

    @contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Optuna, SQLAlchemy and the drivers below share no base class
            words = str(error.__cause__ or error).strip() if not isinstance(error, AutoformerError) else str(error)
            reason = (words.splitlines() or [type(error).__name__])[0][:160]
            raise CheckpointError(f"{self.place} cannot be read as a study ({reason}); move it away to search anew") from error
