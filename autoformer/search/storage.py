"""Where a search keeps its databases: an SQLite file, or what an SQLAlchemy URL names; and what is to be done when one fails.

A path is handed to SQLite as it is, never pasted into a URL, where `?`, `%` and `{` would mean something. A URL may hold
passwords, in front of the host and in its query, so no message shows either.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import optuna
import sqlalchemy as sql
from sqlalchemy.pool import NullPool, Pool, QueuePool

from autoformer.errors import AutoformerError, MissingPackageError, RecipeError, StorageError

Storage = str | Path  # a URL, or a file
WAIT_S = 60.0  # for other writers of a file
AGAIN = "then run the same command again"
# What SQLite's codes mean (https://sqlite.org/rescode.html) where the file may well be whole.
TROUBLE = {
    sqlite3.SQLITE_BUSY: f"another process holds it for long; wait for that process or end it, {AGAIN}",
    sqlite3.SQLITE_LOCKED: f"another process holds it for long; wait for that process or end it, {AGAIN}",
    sqlite3.SQLITE_FULL: f"make room on the disk, {AGAIN}",
    sqlite3.SQLITE_IOERR: f"the disk fails or is full; mend that, {AGAIN}",
    sqlite3.SQLITE_READONLY: f"it cannot be written; mend its permissions or those of its folder, {AGAIN}",
    sqlite3.SQLITE_CANTOPEN: f"it cannot be opened; mend its folder and permissions, {AGAIN}",
    sqlite3.SQLITE_PERM: f"it may not be opened; mend its permissions, {AGAIN}",
    sqlite3.SQLITE_NOMEM: f"there is not enough memory; make room, {AGAIN}",
    sqlite3.SQLITE_PROTOCOL: f"its folder does not lock files; put it on another disk, {AGAIN}",
}
POSTGRES = ("psycopg", "psycopg2")  # drivers that postgresql:// means, the first that is installed
INSTALLED_AS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}  # with what it needs


def engine_of(storage: Storage) -> sql.Engine:
    """A connection for each use. Raises what the driver raises; see `trouble`."""
    url, options = _address(storage, NullPool)
    return sql.create_engine(url, **options)


def database(storage: Storage, table: sql.Table) -> sql.Engine:
    """The database with `table` in it; several processes may ask at once."""
    engine = engine_of(storage)
    try:
        table.create(engine, checkfirst=True)
    except sql.exc.DBAPIError as error:  # another process may have created it between the check and the creation
        if trouble(error, storage) is not None or not sql.inspect(engine).has_table(table.name):
            raise
    return engine


def optuna_storage(storage: Storage | None) -> optuna.storages.BaseStorage | None:
    """What Optuna keeps a study in; None: memory."""
    if storage is None:
        return None
    url, options = _address(storage, QueuePool)
    url = url.replace("{", "{{").replace("}", "}}")  # Optuna takes it for a template
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


def _address(storage: Storage, pool: type[Pool]) -> tuple[str, dict[str, Any]]:
    """A URL, and options of an engine."""
    if isinstance(storage, Path):
        return "sqlite://", {"creator": _opener(storage.absolute()), "poolclass": pool}
    try:
        sql.make_url(storage)
    except (sql.exc.ArgumentError, ValueError):  # the message of which may quote the password
        raise RecipeError(f"{shown(storage)} is no URL of a database; write one like postgresql://user@host/name") from None
    if storage.startswith("postgresql://"):
        driver = next((name for name in POSTGRES if importlib.util.find_spec(name)), POSTGRES[0])
        storage = storage.replace("postgresql", f"postgresql+{driver}", 1)  # what SQLAlchemy takes by itself, versions decide
    if storage.startswith("sqlite"):
        return storage, {"connect_args": {"timeout": WAIT_S}, "poolclass": pool}
    return storage, {"poolclass": pool} if pool is NullPool else {}


def _opener(path: Path) -> Callable[[], sqlite3.Connection]:
    return lambda: sqlite3.connect(path, timeout=WAIT_S, check_same_thread=False)


def check_place(folder: Path) -> None:
    """Raises `StorageError` unless a database can be written in `folder`, which is made; nothing is left in it.

    SQLite takes no long paths, and needs a disk that locks files: better known before the work than after it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f".study.db.{os.getpid()}.partial"
    try:
        with closing(_opener(place.absolute())()) as connection, connection:
            connection.execute("create table tried (number integer)")
    except sqlite3.Error as error:
        raise trouble(error, place) or StorageError(f"{place} cannot be written ({error}); choose another --out") from error
    finally:
        place.unlink(missing_ok=True)


def check_storage(storage: str) -> None:
    """Raises what is to be said of a database that cannot be reached now: better before the work than after it."""
    try:
        with engine_of(storage).connect():
            pass
    except Exception as error:
        if (told := trouble(error, storage)) is not None:
            raise told from error
        raise StorageError(f"{shown(storage)} cannot be opened ({reason_of(error, storage)}); see to it, {AGAIN}") from error


# --- messages --------------------------------------------------------------------------------------------------------


def shown(storage: Storage) -> str:
    """A storage as messages name it: a path, or a URL without user, password and query."""
    if isinstance(storage, Path):
        return str(storage)
    kind, there, rest = storage.removeprefix("sqlite:///").partition("://")
    if not there:  # a path of SQLite, or no URL, of which nothing says what is secret
        return kind.partition("?")[0] if storage.startswith("sqlite:///") else "--storage"
    head, _, query = rest.partition("?")
    if "@" not in head and "@" in query:  # whose "?" and "@" these are cannot be known
        return f"{kind}://..."
    return f"{kind}://{head.rpartition('@')[2]}"


def reason_of(error: BaseException, storage: Storage | None) -> str:
    """The first line of what a driver said, without what of the storage is secret."""
    first = _causes(error)[-1] if not isinstance(error, AutoformerError) else error
    line = (str(first).strip().splitlines() or [type(first).__name__])[0]
    if isinstance(storage, str):
        for secret in _secrets(storage):
            line = line.replace(secret, "...")
    return line[:160]


def _secrets(storage: str) -> Iterator[str]:
    head, _, query = storage.partition("?")
    found = [storage, query, *(pair.partition("=")[2] for pair in query.split("&"))]
    if "@" in storage:
        found.append(storage.rpartition("@")[0].partition("://")[2].partition(":")[2])
        found.append(head.rpartition("@")[0].partition("://")[2].partition(":")[2])
    words = {word for secret in found for word in (secret, unquote_plus(secret)) if word}
    yield from sorted(words, key=len, reverse=True)


def trouble(error: BaseException, storage: Storage | None) -> AutoformerError | None:
    """What of the machine or the network made a database fail, with what to do; None: the database itself is at fault."""
    place = "the study in memory" if storage is None else shown(storage)
    for cause in _causes(error):
        if isinstance(cause, StorageError | MissingPackageError | RecipeError):
            return cause
        if isinstance(cause, sql.exc.NoSuchModuleError):
            return RecipeError(f"{place}: there is no such kind of database; write a URL like postgresql://user@host/name")
        if isinstance(cause, ImportError) and cause.name:
            install = f"pip install {INSTALLED_AS.get(cause.name, cause.name)}"
            return MissingPackageError(f"{place} needs the database driver {cause.name!r}, which is missing: {install}, {AGAIN}")
        advice = None
        if isinstance(cause, sqlite3.Error):
            code = getattr(cause, "sqlite_errorcode", 0)
            advice = None if code == sqlite3.SQLITE_IOERR_SHORT_READ else TROUBLE.get(code & 0xFF)  # a file that was cut
        elif isinstance(cause, sql.exc.TimeoutError | ConnectionError | TimeoutError):
            advice = f"it does not answer; see to its server, {AGAIN}"
        elif isinstance(cause, OSError):
            advice = f"see to the disk and the folder, {AGAIN}"
        elif isinstance(cause, sql.exc.OperationalError | sql.exc.InterfaceError) and not isinstance(cause.orig, sqlite3.Error):
            advice = f"see to its server and to the URL, {AGAIN}"
        if advice is not None:
            return StorageError(f"{place} cannot be used now ({reason_of(error, storage)}): {advice}")
    if isinstance(_causes(error)[-1], ImportError):  # a driver without the library that it drives
        install = f"pip install {INSTALLED_AS[POSTGRES[0]]}"
        return MissingPackageError(
            f"{place} needs a database driver that can be imported ({reason_of(error, storage)}): {install}, {AGAIN}"
        )
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what it came from, the first cause last."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        original = getattr(one, "orig", None)
        one = original if isinstance(original, BaseException) else one.__cause__
    return found
