"""Where a search keeps its databases: paths with letters that mean something elsewhere, passwords, and a machine in trouble."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.pool import QueuePool

from autoformer.cost import Cost
from autoformer.errors import AutoformerError, CheckpointError, MissingPackageError, RecipeError, StorageError
from autoformer.metric import score
from autoformer.search import storage
from autoformer.search.candidate import Candidate
from autoformer.search.database import Claim, EvaluationStore, Study
from autoformer.search.storage import check_storage, shown, trouble
from tests.support.searches import SPACE

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
ODD_NAMES = ("a?b%20{x}", "%41{#", "file:ü x?mode=ro&[1]")


def candidate(images: int = 9) -> Candidate:
    labels = np.random.default_rng(0).integers(0, 9, images)
    return Candidate(
        number=0, generation=0, architecture=SPACE.smallest, cost=Cost(params=1, flops=1), predictions=labels,
        score=score(labels, labels),
    )  # fmt: skip


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_study_lies_in_the_folder_it_was_given_whatever_that_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    folder.mkdir()
    store = EvaluationStore(folder / "evaluations.db", {"weights": 1}, 10)
    store.put(SPACE.smallest, 0, np.array([1, 2, 3]))
    study = Study.in_folder(folder, "s", store)
    study.add(candidate())
    with study.claim(1, 4) as claim:
        assert claim is Claim.FRESH
    assert len(Study.in_folder(folder, "s").evaluations()) == 1
    assert everything_in(tmp_path) == {name, *(f"{name}/{file}" for file in ("study.db", "evaluations.db", ".study.lock"))}
    with closing(sqlite3.connect(str(tmp_path / name / "study.db"))) as database:
        assert database.execute("select count(*) from trials").fetchone() == (1,)


# --- passwords -------------------------------------------------------------------------------------------------------

URLS = {
    "postgresql://me@host/db?password=secret": "postgresql://host/db",
    "postgresql://me:secret@host:5432/db": "postgresql://host:5432/db",
    "postgresql://me:sec/secret@host/db": "postgresql://host/db",
    "postgresql://me:sec@secret@host/db": "postgresql://host/db",
    "postgresql://me:what?secret@host/db": "postgresql://...",
    "postgresql://host/db?user=me&password=a@secret": "postgresql://...",
    "mssql+pyodbc://?odbc_connect=DRIVER%3Dx%3BPWD%3Dsecret": "mssql+pyodbc://",
    "nosuch+driver://me:secret@host/db": "nosuch+driver://host/db",
    "postgresql://me:secret@host:port/db": "postgresql://host:port/db",
    "secret:no url?password=secret": None,
    "sqlite:///a/study.db": "a/study.db",
}


@pytest.mark.parametrize("url", [url for url in URLS if not url.startswith("sqlite")])
def test_no_message_about_a_storage_holds_its_password(url: str) -> None:
    for given in (url, url.replace("secret", "sec%72et")):
        with pytest.raises(AutoformerError) as caught:
            Study(given, "s")
        words = str(caught.value)
        assert "secret" not in words.removeprefix("secret:no url")
        assert "sec%72et" not in words.removeprefix("sec%72et:no url")
        assert "\n" not in words


@pytest.mark.parametrize(("url", "words"), [(url, words) for url, words in URLS.items() if words])
def test_a_storage_is_shown_as_its_place(url: str, words: str) -> None:
    assert shown(url) == words


def test_what_a_driver_says_is_shown_without_the_password() -> None:
    said = ConnectionRefusedError('no login with "s3?cr%t" at host, dsn password=s3%3Fcr%25t')
    error = storage.trouble(said, "postgresql://me:s3%3Fcr%25t@host/db")
    assert isinstance(error, StorageError)
    assert "cr" not in str(error).split("(")[1].split(")")[0]


# --- a machine in trouble ------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WAIT_S", 0.05)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # Optuna tries five times


def held(path: Path) -> sqlite3.Connection:
    """Another process's lock on a database."""
    other = sqlite3.connect(path)
    other.execute("begin exclusive")
    return other


def test_the_wait_for_a_locked_file_is_a_minute() -> None:
    assert storage.WAIT_S == 60


@pytest.mark.usefixtures("impatient")
def test_a_locked_study_is_called_locked_and_not_damaged(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    study = Study(file, "s")
    uses: list[Callable[[], object]] = [
        lambda: Study(f"sqlite:///{file}", "s"),
        lambda: study.add(candidate()),
        study.claim(1, 1).__enter__,
    ]
    with closing(held(file)):
        for use in uses:
            with pytest.raises(StorageError, match=r"db cannot be used now \(database is locked\).*run the same command again"):
                use()
    study.add(candidate())
    assert len(study.evaluations()) == 1


def fill(study: Study) -> None:
    for _ in range(9):
        study.add(candidate(5000))


@pytest.mark.usefixtures("impatient")
def test_a_study_on_a_full_disk_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not grow stands for the disk."""
    Study(tmp_path / "study.db", "s")

    def opened(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.execute("pragma max_page_count = 1")
        return connection

    monkeypatch.setattr(storage, "_opener", lambda path: lambda: opened(path))
    study = Study(tmp_path / "study.db", "s")
    with pytest.raises(StorageError, match=r"disk is full.*make room on the disk, then run the same command again"):
        fill(study)


def test_a_missing_driver_is_named() -> None:
    with pytest.raises(
        MissingPackageError, match="'pg8000', which is missing: pip install pg8000, then run the same command again"
    ):
        Study("postgresql+pg8000://me@host/db", "s")


@pytest.mark.parametrize(("url", "install"), [
    ("postgresql://me:secret@host/db", r"'psycopg', which is missing: pip install 'psycopg\[binary\]', then"),
    ("postgresql+psycopg2://me:secret@host/db", "'psycopg2', which is missing: pip install psycopg2-binary, then"),
])  # fmt: skip
def test_postgresql_without_a_driver_is_one_line_with_the_command_that_installs_it(
    url: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=f"^postgresql.*//host/db needs the database driver {install}") as raised:
        check_storage(url)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("installed", "taken"), [
    ({"psycopg", "psycopg2"}, "psycopg"), ({"psycopg2"}, "psycopg2"), (set(), "psycopg"),
])  # fmt: skip
def test_a_postgresql_url_without_a_driver_takes_the_one_that_is_installed(
    installed: set[str], taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in installed else None)
    url, _ = storage._address("postgresql://me:a@host/postgresql", QueuePool)
    assert url == f"postgresql+{taken}://me:a@host/postgresql"


def test_a_driver_without_its_library_is_said_with_the_command_that_brings_both() -> None:
    error = ImportError("no pq wrapper available.\nAttempts made: ...")
    told = trouble(error, "postgresql://me:secret@host/db")
    assert isinstance(told, MissingPackageError)
    assert "(no pq wrapper available.): pip install 'psycopg[binary]'" in str(told)


def test_a_kind_of_database_that_there_is_not_is_no_damage() -> None:
    with pytest.raises(RecipeError, match="no such kind of database"):
        Study("nosuch://host/db", "s")


def test_a_damaged_study_is_still_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database at all " * 99)
    with pytest.raises(CheckpointError, match="cannot be read as a study"):
        Study(tmp_path / "study.db", "s")


def test_a_row_of_a_study_that_is_no_text_is_said_once_and_not_by_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(tmp_path / "study.db", "s")
    study.add(candidate(10))
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection, connection:
        connection.execute("UPDATE trial_system_attributes SET value_json = CAST(X'22FF22' AS TEXT)")
        connection.execute("UPDATE trial_user_attributes SET value_json = CAST(X'22FF22' AS TEXT)")
    said = io.StringIO()
    for handler in logging.getLogger("optuna").handlers:
        if isinstance(handler, logging.StreamHandler):
            monkeypatch.setattr(handler, "stream", said)
    with pytest.raises(CheckpointError, match=r"study\.db"):
        Study(tmp_path / "study.db", "s").evaluations()
    assert said.getvalue() == ""


@pytest.mark.usefixtures("impatient")
def test_a_cache_that_cannot_be_written_is_left_out_with_one_warning(tmp_path: Path) -> None:
    file = tmp_path / "evaluations.db"
    store = EvaluationStore(file, {"weights": 1}, 10)
    store.put(SPACE.smallest, 0, np.array([1, 2, 3]))
    with closing(held(file)), pytest.warns(UserWarning, match="locked.*not kept for other searches") as seen:
        found = store.get(SPACE.smallest, 0, 3)
    assert (found.tolist(), len(seen)) == ([], 1)
    with closing(held(file)):  # a second warning would be an error
        store.put(SPACE.smallest, 0, np.array([1, 2, 3, 4]))
    with closing(held(file)), pytest.warns(UserWarning, match="locked"):
        late = EvaluationStore(file, {"weights": 1}, 10)
    assert late.get(SPACE.smallest, 0, 3).tolist() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_in_a_folder_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    with pytest.warns(UserWarning, match="cannot be opened"):
        EvaluationStore(place / "evaluations.db", {"weights": 1}, 10).put(SPACE.smallest, 0, np.array([1]))


def test_a_place_where_no_database_can_be_is_known_before_the_work(tmp_path: Path) -> None:
    """SQLite opens no path of more than 512 bytes."""
    storage.check_place(tmp_path / "a?b" / "search")
    assert everything_in(tmp_path) == {"a?b", "a?b/search"}
    far = tmp_path.joinpath(*["x" * 200] * 3)
    with pytest.raises(StorageError, match="cannot be opened"):
        storage.check_place(far)
    assert everything_in(far) == set()


def test_a_storage_that_cannot_be_reached_is_known_before_the_work(tmp_path: Path) -> None:
    check_storage(f"sqlite:///{tmp_path}/study.db")
    with pytest.raises(StorageError, match="cannot be used now"):
        check_storage(f"sqlite:///{tmp_path}/missing/study.db")


def test_what_is_no_url_is_not_repeated_since_it_may_hold_a_password() -> None:
    with pytest.raises(RecipeError, match="--storage is no URL of a database") as caught:
        check_storage("nonsense;pwd=topsecret")
    assert "topsecret" not in str(caught.value)
