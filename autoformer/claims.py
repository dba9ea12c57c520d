"""`Claims`: which process evaluates what, when several search with one study.

Optuna has no atomic claim, so each evaluation has a row of our own in the study's database; the primary key lets one process
insert it. The holder counts `beat` up while it works. A row whose holder is gone may be taken over: at once if it was a
process of this machine that no longer runs, else when its beat stands still for `stale_s`, by the watcher's own clock. Rows
stay when an evaluation is done, so none is ever claimed afresh. An evaluation is the number of a candidate and how many images
it is evaluated up to.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.pool import NullPool

BEAT_S = 5.0
STALE_S = 60.0
TOKEN = uuid.uuid4().hex[:8]  # tells this process from an earlier one with its number

TABLE = sql.Table(
    "autoformer_claims",
    sql.MetaData(),
    sql.Column("study", sql.String(255), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("images", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("worker", sql.String(255), nullable=False),
    sql.Column("beat", sql.Integer, nullable=False),
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
        storage: str,
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
        waits = {"timeout": 60} if storage.startswith("sqlite") else {}  # seconds for other writers of the file
        self._engine = sql.create_engine(storage, poolclass=NullPool, connect_args=waits)
        try:
            TABLE.create(self._engine, checkfirst=True)
        except sql.exc.DBAPIError:  # another process created it between the check and the creation
            if not sql.inspect(self._engine).has_table(TABLE.name):
                raise

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
                connection.execute(sql.delete(TABLE).where(self._row(number, images), TABLE.c.worker == self.worker))
            raise
        finally:
            done.set()
            beating.join()

    def _claim(self, number: int, images: int) -> Claim:
        row = {"study": self.study, "number": number, "images": images, "worker": self.worker, "beat": 0}
        with self._engine.connect() as connection:
            held = connection.execute(sql.select(TABLE.c.worker, TABLE.c.beat).where(self._row(number, images))).first()
        if held is None:
            try:
                with self._engine.begin() as connection:
                    connection.execute(sql.insert(TABLE).values(row))
            except sql.exc.IntegrityError:  # another process was faster
                return Claim.FOREIGN
            return Claim.FRESH
        if not self._gone((number, images), held.worker, held.beat):
            return Claim.FOREIGN
        taking = (
            sql.update(TABLE)
            .where(self._row(number, images), TABLE.c.worker == held.worker, TABLE.c.beat == held.beat)
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
        beating = sql.update(TABLE).where(self._row(number, images), TABLE.c.worker == self.worker).values(beat=TABLE.c.beat + 1)
        while not done.wait(self.beat_s):
            with suppress(sql.exc.SQLAlchemyError), self._engine.begin() as connection:  # a missed beat is no harm
                connection.execute(beating)

    def _row(self, number: int, images: int) -> sql.ColumnElement[bool]:
        return sql.and_(TABLE.c.study == self.study, TABLE.c.number == number, TABLE.c.images == images)


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
