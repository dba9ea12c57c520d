"""`EvaluationStore`: guesses that earlier searches got, so that another search need not ask the supernet again.

The truth about a search is its study; this is a cache that every search fills from its own and may be deleted at any time. A
row belongs to a key (weights, images in their order, precision), an architecture and the place of its first image, and holds
the guesses from there on: a search that wants more images than are known asks for the rest alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import sqlalchemy as sql
from numpy.typing import NDArray
from sqlalchemy.pool import NullPool

from autoformer.architecture import Architecture
from autoformer.checkpoint import json_digest
from autoformer.errors import CheckpointError
from autoformer.packed import packed, unpacked

TABLE = sql.Table(
    "autoformer_evaluations",
    sql.MetaData(),
    sql.Column("key", sql.String(64), primary_key=True),
    sql.Column("architecture", sql.String(64), primary_key=True),  # its digest
    sql.Column("start", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("images", sql.Integer, nullable=False),
    sql.Column("guesses", sql.Text, nullable=False),
)


class EvaluationStore:
    """What is known of the networks of one supernet on one set of images; `storage` is a database as an SQLAlchemy URL.

    Every method raises `CheckpointError` naming the storage when it is damaged or holds something else.
    """

    def __init__(self, storage: str, key: Mapping[str, Any], classes: int) -> None:
        """`key` says what guesses depend on beside the architecture; they are below `classes`."""
        self.place = re.sub(r"//[^@/]*@", "//", storage.removeprefix("sqlite:///"))  # a URL may hold a password
        self.key, self.classes = json_digest(key), classes
        waits = {"timeout": 60} if storage.startswith("sqlite") else {}  # seconds for other writers of the file
        with self._readable():
            self._engine = sql.create_engine(storage, poolclass=NullPool, connect_args=waits)
            try:
                TABLE.create(self._engine, checkfirst=True)
            except sql.exc.DBAPIError:  # another process created it between the check and the creation
                if not sql.inspect(self._engine).has_table(TABLE.name):
                    raise

    def get(self, architecture: Architecture, start: int, stop: int) -> NDArray[np.int64]:
        """The guesses that are known of images start, start + 1, ... below `stop`; may be none."""
        mine = sql.and_(TABLE.c.key == self.key, TABLE.c.architecture == architecture.digest, TABLE.c.start <= start)
        found = np.empty(0, np.int64)
        with self._readable(), self._engine.connect() as connection:
            for row in connection.execute(sql.select(TABLE.c.start, TABLE.c.images, TABLE.c.guesses).where(mine)):
                held = unpacked(row.guesses, row.images)
                if held.size and held.max() >= self.classes:
                    raise ValueError(f"a guess of class {held.max()} of {self.classes}")
                held = held[start - row.start : stop - row.start]
                found = max(found, held, key=len)
        return found

    def put(self, architecture: Architecture, start: int, guesses: NDArray[np.int64]) -> None:
        """Keeps the guesses of the images from `start` on, unless more are known."""
        values = {"images": len(guesses), "guesses": packed(guesses)}
        row = {"key": self.key, "architecture": architecture.digest, "start": start}
        mine = sql.and_(*(TABLE.c[name] == value for name, value in row.items()))
        with self._readable(), self._engine.begin() as connection:
            held = connection.execute(sql.select(TABLE.c.images).where(mine)).scalar()
            if held is not None and held >= len(guesses):
                return
            if held is not None:
                connection.execute(sql.update(TABLE).where(mine).values(values))
                return
            with suppress(sql.exc.IntegrityError):  # another process was faster, with the same guesses
                connection.execute(sql.insert(TABLE).values(row | values))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (sql.exc.SQLAlchemyError, ValueError) as error:
            reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise CheckpointError(
                f"{self.place} cannot be read as stored evaluations ({reason}); it is a cache, so it can be deleted"
            ) from error
