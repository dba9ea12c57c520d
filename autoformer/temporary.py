"""Folders that a process works in and that go with it: what a killed process leaves is removed by the next that needs the like.

A folder belongs to whoever holds its lock, and a lock ends with its process, however that ends. Standard library alone.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".partial"
_held: set[int] = set()  # the locks of this process


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """An empty hidden folder beside `path`, on the same disk, for the block."""
    with _own_folder(path.parent, f".{path.name}.") as folder:
        yield folder


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """An empty folder among the temporary files, for the block; `purpose` is a word of its name."""
    with _own_folder(Path(tempfile.gettempdir()), f"autoformer-{purpose}-") as folder:
        yield folder


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left anywhere in `folder`, where what they were writing will not be written again."""
    for left in list(folder.rglob(f".*{SUFFIX}")):
        _remove_unless_held(left)


def remove_leftovers_of(path: Path) -> None:
    """Removes what killed processes left beside `path`, a file that is there and will not be written again."""
    _remove_beside(path.parent, f".{path.name}.")


def _remove_beside(parent: Path, prefix: str) -> None:
    for left in parent.glob(f"{glob.escape(prefix)}*{SUFFIX}"):
        _remove_unless_held(left)


@contextmanager
def _own_folder(parent: Path, prefix: str) -> Iterator[Path]:
    _remove_beside(parent, prefix)
    folder, lock = _made(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _release(lock)


def _made(parent: Path, prefix: str) -> tuple[Path, int | None]:
    """A new folder and its lock, None on a disk without locks; made again where another process took it for a leftover."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=SUFFIX, dir=parent))
        try:
            lock = _lock(folder)
        except FileNotFoundError:
            continue
        if folder.exists():
            return folder, lock
        _release(lock)


def _remove_unless_held(left: Path) -> None:
    """Removes a leftover of this user; of earlier versions too, whose name says the number of their process."""
    owner = left.name.removesuffix(SUFFIX).rpartition(".")[2]
    try:
        if not hasattr(os, "getuid") or left.is_symlink() or left.lstat().st_uid != os.getuid():
            return
        if owner.isdecimal() and _runs(int(owner)):
            return
        if not left.is_dir():
            left.unlink()
            return
        lock = _lock(left)
    except OSError:  # it went meanwhile
        return
    if lock is not None:
        shutil.rmtree(left, ignore_errors=True)
        _release(lock)


def _lock(folder: Path) -> int | None:
    """The lock of a folder; None where another process holds it, or where the disk or the system knows none."""
    try:
        import fcntl
    except ModuleNotFoundError:  # the program of a board, on Windows: what is left of a killed one stays
        return None
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    _held.add(lock)
    return lock


def _release(lock: int | None) -> None:
    if lock is not None:
        _held.discard(lock)
        os.close(lock)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


# A loader process is a fork and would share the locks: it would hold them for seconds after its parent was killed.
def _release_all() -> None:
    for lock in list(_held):
        _release(lock)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_release_all)
