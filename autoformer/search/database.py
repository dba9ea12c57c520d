"""What a search keeps in databases: its finished evaluations, who is at the others, and what other searches may reuse.

A `Study` holds the evaluations of one search in an Optuna study, so that it can be resumed. Processes that share it claim the
evaluations they work on (`Claims`); a claim that its holder does not renew may be taken over. An `EvaluationStore` holds the
predictions of a supernet's networks under whatever decides them, so that another search need not ask again: a cache.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sql
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.errors import AutoformerWarning, CheckpointError
from autoformer.files import json_digest, replacing, unsealed
from autoformer.search.candidate import Candidate, packed, unpacked
from autoformer.search.storage import Storage, database, optuna_storage, reason_of, shown, trouble
from autoformer.search.trials import CANDIDATE, trial_of
from autoformer.space import SearchSpace

BEAT_S = 5.0
STALE_S = 60.0
TOKEN = uuid.uuid4().hex[:8]  # tells this process from an earlier one with its number
CLAIMS = sql.Table(
    "autoformer_claims",
    sql.MetaData(),
    sql.Column("study", sql.String(255), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("images", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("worker", sql.String(255), nullable=False),
    sql.Column("beat", sql.Integer, nullable=False),
)
SCORES = sql.Table(
    "autoformer_evaluations",
    sql.MetaData(),
    sql.Column("key", sql.String(64), primary_key=True),
    sql.Column("architecture", sql.String(64), primary_key=True),  # its digest
    sql.Column("start", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("images", sql.Integer, nullable=False),
    sql.Column("guesses", sql.Text, key="predictions", nullable=False),
)


class Claim(Enum):
    """Whose an evaluation is."""

    FRESH = "nobody had it before"
    TAKEN_OVER = "its holder is gone; it may have been finished"
    FOREIGN = "another process is at it, or has done it"


def this_machine() -> str:
    """A name for the machine or container whose process numbers are ours."""
    namespace = ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{platform.node()}{namespace}"


class Claims:
    """The claims of one study, as `worker` (this process) sees them."""

    def __init__(
        self,
        storage: Storage,
        study: str,
        *,
        worker: str | None = None,
        stale_s: float = STALE_S,
        beat_s: float = BEAT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.study, self.stale_s, self.beat_s, self.clock = study, stale_s, beat_s, clock
        self.worker = worker or f"{this_machine()}|{os.getpid()}|{TOKEN}"
        self._seen: dict[tuple[int, int], tuple[str, int, float]] = {}  # holder, beat, and since when
        self._engine = database(storage, CLAIMS)

    @contextmanager
    def claim(self, number: int, images: int) -> Iterator[Claim]:
        """Tries to make an evaluation ours, and keeps it ours while the block runs; given back when it raises."""
        found = self._claim(number, images)
        if found is Claim.FOREIGN:
            yield found
            return
        done = threading.Event()
        beating = threading.Thread(target=self._beat, args=(number, images, done), daemon=True)
        beating.start()
        try:
            yield found
        except BaseException:
            done.set()
            beating.join()
            with suppress(sql.exc.SQLAlchemyError), self._engine.begin() as connection:  # else it goes stale
                connection.execute(sql.delete(CLAIMS).where(self._row(number, images), CLAIMS.c.worker == self.worker))
            raise
        finally:
            done.set()
            beating.join()

    def _claim(self, number: int, images: int) -> Claim:
        row = {"study": self.study, "number": number, "images": images, "worker": self.worker, "beat": 0}
        with self._engine.connect() as connection:
            held = connection.execute(sql.select(CLAIMS.c.worker, CLAIMS.c.beat).where(self._row(number, images))).first()
        if held is None:
            try:
                with self._engine.begin() as connection:
                    connection.execute(sql.insert(CLAIMS).values(row))
            except sql.exc.IntegrityError:  # another process was faster
                return Claim.FOREIGN
            return Claim.FRESH
        if not self._gone((number, images), held.worker, held.beat):
            return Claim.FOREIGN
        taking = (
            sql.update(CLAIMS)
            .where(self._row(number, images), CLAIMS.c.worker == held.worker, CLAIMS.c.beat == held.beat)
            .values(worker=self.worker, beat=held.beat + 1)
        )
        with self._engine.begin() as connection:
            return Claim.TAKEN_OVER if connection.execute(taking).rowcount == 1 else Claim.FOREIGN

    def _gone(self, place: tuple[int, int], worker: str, beat: int) -> bool:
        """Whether the holder of a row no longer works on it."""
        machine, _, process = worker.partition("|")
        if worker == self.worker:
            return True  # this very process, in an attempt that failed
        if machine == this_machine() and not _runs(process):
            return True
        known = self._seen.get(place)
        if known is None or known[:2] != (worker, beat):
            known = self._seen[place] = (worker, beat, self.clock())
        return self.clock() - known[2] >= self.stale_s

    def _beat(self, number: int, images: int, done: threading.Event) -> None:
        beating = (
            sql.update(CLAIMS).where(self._row(number, images), CLAIMS.c.worker == self.worker).values(beat=CLAIMS.c.beat + 1)
        )
        while not done.wait(self.beat_s):
            with suppress(sql.exc.SQLAlchemyError), self._engine.begin() as connection:  # a missed beat does no harm
                connection.execute(beating)

    def _row(self, number: int, images: int) -> sql.ColumnElement[bool]:
        return sql.and_(CLAIMS.c.study == self.study, CLAIMS.c.number == number, CLAIMS.c.images == images)


def _runs(process: str) -> bool:
    """Whether the process "number|token" of this machine still runs; a dead one that nobody has waited for does not."""
    number, _, token = process.partition("|")
    if number == str(os.getpid()):
        return token == TOKEN
    with suppress(OSError, IndexError):  # Linux: the state stands after the name in parentheses
        if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


class Study:
    """The evaluations of one search in an Optuna study, a trial each. `storage` is a file or any URL Optuna takes; None: memory.

    `store` is what earlier searches found, where it may be reused. `begun_before` tells a search that an earlier version began,
    and that ends by its rules (`finalists.cheapest_finalists`).

    Every method raises `CheckpointError` naming the storage when it is damaged or holds something else, and `StorageError` or
    another error of ours when it cannot be used now (`storage.trouble`).
    """

    def __init__(
        self, storage: Storage | None, name: str, store: EvaluationStore | None = None, begun_before: bool = False
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it warns of, damaged rows among it, is an error of ours
        self.storage, self.store, self.begun_before = storage, store, begun_before
        self.place = "the study in memory" if storage is None else shown(storage)
        with self._storage():
            place = optuna_storage(storage)
            self.study = optuna.create_study(study_name=name, storage=place, direction="maximize", load_if_exists=True)
            self._claims = None if storage is None else Claims(storage, name)
        self._read: dict[int, Candidate] = {}  # by the number of the trial, which never changes

    @classmethod
    def in_folder(cls, folder: Path, name: str, store: EvaluationStore | None = None, begun_before: bool = False) -> Study:
        """The study in `folder/study.db`, made if it is missing; several processes may ask at once."""
        import fcntl

        file = folder / "study.db"
        with (folder / ".study.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits; ends with the process
            if not file.exists():
                with replacing(file) as beside:  # Optuna sets a database up in many steps; half of them cannot be gone on from
                    cls(beside, name)
            return cls(file, name, store, begun_before)

    def evaluations(self) -> dict[tuple[int, int], Candidate]:
        """Every finished evaluation by the candidate's number and the images it is known from, held-out ones included."""
        found = {}
        with self._storage():
            for trial in self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]):
                if trial.number not in self._read:
                    if CANDIDATE not in trial.user_attrs:
                        raise CheckpointError(f"trial {trial.number} lacks its candidate")
                    stored = unsealed(json.loads(trial.user_attrs[CANDIDATE]), f"trial {trial.number}")
                    if stored.pop("study", self.study.study_name) != self.study.study_name:
                        raise CheckpointError(f"trial {trial.number} belongs to another study")
                    self._read[trial.number] = Candidate.from_dict(stored)
                candidate = self._read[trial.number]
                found[candidate.number, candidate.known] = candidate
        return found

    def add(self, candidate: Candidate, space: SearchSpace | None = None) -> None:
        """Stores one finished evaluation, whole or not at all; with its choices as parameters, where its `space` is given."""
        with self._storage():
            self.study.add_trial(trial_of(candidate, space, self.study.study_name))

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
            if found := trouble(error, self.storage):
                raise found from error
            reason = reason_of(error, self.storage)
            raise CheckpointError(f"{self.place} cannot be read as a study ({reason}); move it away to search anew") from error


class EvaluationStore:
    """What is known of the networks of one supernet on one set of images; `storage` is a file or the URL of a database.

    Every method raises `CheckpointError` naming the storage when it is damaged or holds something else. What cannot be read or
    written now is left out from then on, with a warning: it is a cache.
    """

    def __init__(self, storage: Storage, key: Mapping[str, Any], classes: int) -> None:
        """`key` says what predictions depend on beside the architecture; they are below `classes`."""
        self.storage, self.place = storage, shown(storage)
        self.is_left_out = False
        self.key, self.classes = json_digest(key), classes
        with self._readable():
            self._engine = database(storage, SCORES)

    def get(self, architecture: Architecture, start: int, stop: int) -> NDArray[np.int64]:
        """The predictions that are known for images start, start + 1, ... below `stop`; may be none."""
        mine = sql.and_(SCORES.c.key == self.key, SCORES.c.architecture == architecture.digest, SCORES.c.start <= start)
        found = np.empty(0, np.int64)
        if self.is_left_out:
            return found
        with self._readable(), self._engine.connect() as connection:
            for row in connection.execute(sql.select(SCORES).where(mine)):
                held = self._predictions(row)
                if held is not None:
                    found = max(found, held[start - row.start : stop - row.start], key=len)
        return found

    def put(self, architecture: Architecture, start: int, predictions: NDArray[np.int64]) -> None:
        """Keeps the predictions for the images from `start` on, unless more are known."""
        if self.is_left_out:
            return
        row = {"key": self.key, "architecture": architecture.digest, "start": start}
        digits = packed(predictions)
        digest = json_digest([*row.values(), len(predictions), digits])
        content = {"images": len(predictions), "predictions": f"{digits}.{digest}"}
        mine = sql.and_(*(SCORES.c[name] == value for name, value in row.items()))
        with self._readable(), self._engine.begin() as connection:
            stored = connection.execute(sql.select(SCORES).where(mine)).first()
            held = None if stored is None else self._predictions(stored)
            if held is not None and len(held) >= len(predictions):
                return
            if stored is not None:
                connection.execute(sql.update(SCORES).where(mine).values(content))
                return
            with suppress(sql.exc.IntegrityError):  # another process was faster, with the same predictions
                connection.execute(sql.insert(SCORES).values(row | content))

    def _predictions(self, row: sql.Row[Any]) -> NDArray[np.int64] | None:
        """What a row holds, [images]; None, with a warning, where it is not what was written. Earlier versions kept no digest."""
        digits, _, digest = str(row.predictions).partition(".")
        try:
            if digest not in ("", json_digest([row.key, row.architecture, row.start, row.images, digits])):
                raise ValueError("its digest differs")
            held = unpacked(digits, row.images)
            if held.size and held.max() >= self.classes:
                raise ValueError(f"a prediction of class {held.max()} of {self.classes}")
        except (ValueError, TypeError) as error:
            words = f"{self.place} holds a damaged evaluation ({error}); the network is evaluated anew"
            warnings.warn(words, AutoformerWarning, stacklevel=2)
            return None
        return held

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (sql.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
            if found := trouble(error, self.storage):
                self.is_left_out = True
                warnings.warn(f"{found}; until then evaluations are not kept for other searches", AutoformerWarning, stacklevel=3)
                return
            raise CheckpointError(
                f"{self.place} cannot be read as stored evaluations ({reason_of(error, self.storage)}); it is a cache, so it can "
                "be deleted"
            ) from error
