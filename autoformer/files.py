"""Files and folders that are complete or absent: written beside, then renamed. Weights are safetensors, the rest JSON.

Nothing here unpickles. Whatever cannot be read raises `CheckpointError` naming the file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from autoformer.errors import AutoformerError, CheckpointError, DataError, OutputExistsError, short
from autoformer.file_kinds import placeholder, stand_in
from autoformer.temporary import SUFFIX, folder_beside, remove_leftovers_of

IDENTITY = "identity.json"  # in a folder of work: what `claim_folder` knows it by
# By the kind of work: the file that stands there in the end, what is unfinished, and the command that goes on with it.
UNFINISHED = {
    "run": ("report.json", "an unfinished run", "autoformer run"),
    "supernet": ("supernet.json", "an unfinished training of a supernet", "autoformer train"),
    "subnet": ("subnet.json", "an unfinished finetune", "autoformer finetune"),
    "timm": ("network.json", "an unfinished finetune", "autoformer finetune"),
    "search": ("search.json", "an unfinished search", "autoformer search"),
    "race": ("race.json", "an unfinished race", "autoformer race"),
}
STAGES = {  # by what tells of a folder that stands before a network and its files: what it is, and what to do
    "supernet.json": "it is a supernet; cut a network out of it first: autoformer extract --supernet {} --out NETWORK",
    "search.json": "it is a search; cut what it chose out first: autoformer extract --supernet RUN --search {} --out NET",
    "race.json": "it is a race, whose winner is not there; a run keeps it in its folder finetuned",
}
SCORED = "test.json"  # the last that a run writes before its report
SEAL = "content_sha256"  # the key of JSON objects and the entry of safetensors headers with the digest of the rest
MOST_DIFFERENCES = 3  # between two runs, that are named
SYSTEM = ("/dev/", "/proc/")
TIMM = "timm:"  # begins the name of one of timm's networks where a path could stand


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to; renamed onto `path` when the block ends well, removed otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(path) as folder:
        beside = folder / path.name
        yield beside
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; renamed to `folder` when the block ends well, removed otherwise.

    Raises `OutputExistsError` when `folder` already holds something.
    """
    refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder) as place:
        beside = place / folder.name
        beside.mkdir()
        yield beside
        refuse_existing(folder)  # of another command, which was quicker
        os.replace(beside, folder)  # onto an empty folder is allowed, onto a filled one refused


def refuse_existing(folder: Path) -> None:
    """Raises `OutputExistsError` when `folder` is a file or holds anything but the remains of interrupted writing, and `OSError`
    where it could not be made: better now than after the work.
    """
    if folder.exists() and (not folder.is_dir() or any(path.suffix != SUFFIX for path in folder.iterdir())):
        raise OutputExistsError(f"{folder} already exists; choose another --out or move it away (nothing was written)")
    _check_writable(folder)


def refuse_existing_file(path: Path) -> None:
    """Raises `OutputExistsError` when something stands at `path`, and `OSError` where nothing could be written there."""
    if path.exists():
        raise OutputExistsError(f"{path} already exists; choose another --out or move it away (nothing was written)")
    _check_writable(path)


def _check_writable(path: Path) -> None:
    """Raises `OSError` where the folder of `path` cannot be written to, or made."""
    place = path.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def refuse_pipes(words: Iterable[str]) -> None:
    """Raises `DataError` for the first word that names a pipe, a socket or a disk's device: opening one may wait for ever.

    Also looked at is what follows the first = or @ of a word. What the system itself names (/dev/stdin) is its own business.
    """
    for word in words:
        for path in {word, word.partition("=")[2], word.partition("@")[2]}:
            try:
                mode = os.stat(path).st_mode if path and not path.startswith(SYSTEM) else 0
            except (OSError, ValueError):
                continue
            kinds = {stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket", stat.S_ISBLK: "a device", stat.S_ISCHR: "a device"}
            if what := next((name for is_so, name in kinds.items() if is_so(mode)), None):
                raise DataError(
                    f"{path} is {what}, not a file; it was not opened, since that may wait for ever: save a file first"
                )


def claim_folder(folder: Path, identity: Mapping[str, Any]) -> None:
    """Makes `folder` the place of the work that `identity` describes, or finds that it already is.

    Raises `OutputExistsError` when it holds other work, naming the first difference, or files of unknown origin.
    """
    if (path := folder / IDENTITY).exists():
        refuse_other_work(folder, {**dict.fromkeys(read_json(path)), **identity})
        remove_leftovers_of(path)  # of a process that was killed as it claimed the folder
        return
    refuse_existing(folder)
    write_json(identity, path)


def refuse_other_work(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raises `OutputExistsError` where `folder` is the place of work that differs in one of these keys, or is a file."""
    if folder.is_file():
        refuse_existing(folder)
    if (path := folder / IDENTITY).exists():
        held, wanted = read_json(path), json.loads(json.dumps(identity))
        for key in sorted((name for name in wanted if held.get(name) != wanted[name]), key=lambda name: (name != "kind", name)):
            found = [words.removeprefix("recipe.") for words in _differences(key, held.get(key), wanted[key])]  # as one sets them
            shown = ", ".join(found[:MOST_DIFFERENCES]) + ", and more" * (len(found) > MOST_DIFFERENCES)
            shown = "images are others (added, changed or removed)" if key == "data" else shown
            raise OutputExistsError(f"{folder} holds another run: its {shown}; choose another --out")


def _kind_of_work(folder: Path) -> str | None:
    """What a folder was claimed for; None where it was not, or its identity cannot be read."""
    try:
        held = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kind = held.get("kind") if isinstance(held, dict) else None
    return kind if isinstance(kind, str) and kind in UNFINISHED else None


def refuse_unfinished(folder: Path) -> None:
    """Raises `CheckpointError` for a folder of work that is not finished, naming the command that goes on with it."""
    if (kind := _kind_of_work(folder)) is None:
        return
    last, what, command = UNFINISHED[kind]
    if (folder / last).exists() or (kind == "run" and (folder / SCORED).exists()):  # `autoformer report build` writes its report
        return
    if kind != "run" and _kind_of_work(folder.resolve().parent) == "run":
        command = UNFINISHED["run"][2]
    raise CheckpointError(f"{folder} holds {what}; give the same `{command}` again: it goes on where it stopped")


@contextmanager
def sole_worker(folder: Path) -> Iterator[None]:
    """Keeps other processes out of `folder` while the block runs; ends with the process, however that ends. The lock file of
    a process that was killed stays, and holds nobody up.

    Raises `OutputExistsError` when another process works there.
    """
    path = folder / ".lock"
    with _locked(path) as lock:
        _locks.add(lock)
        try:
            yield
        finally:
            _locks.discard(lock)
            with suppress(OSError):  # it does no harm
                path.unlink()


def _locked(path: Path) -> IO[str]:
    """The lock file of a folder, held. Its holder removes it in the end, so what was opened may not be what lies there by now."""
    import fcntl

    while True:
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        except BlockingIOError as error:
            lock.close()
            raise OutputExistsError(f"another process works in {path.parent}; wait for it, or choose another --out") from error
        except FileNotFoundError:  # removed between the two looks
            pass
        lock.close()


# A loader process is a fork and would share the lock: it would hold it for seconds after its parent was killed.
_locks: set[IO[str]] = set()
if hasattr(os, "register_at_fork"):  # not on Windows, where the program says so itself
    os.register_at_fork(after_in_child=lambda: [lock.close() for lock in _locks])


def _differences(name: str, held: Any, wanted: Any) -> Iterator[str]:
    """The values in which two of JSON differ, with where they stand: budget.max_latency is '5ms' there and '4ms' now."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        for key in sorted(set(held) | set(wanted)):
            yield from _differences(f"{name}.{key}", held.get(key), wanted.get(key))
    elif held != wanted:
        yield f"{name} is {_shown(held)} there and {_shown(wanted)} now"


def _shown(value: Any) -> str:
    """A value of JSON in a few letters."""
    if value is None or isinstance(value, dict):
        return "not given" if value is None else "given"
    return f"'{value[:60]}'" if isinstance(value, str) else json.dumps(value)[:60]


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the digest of its content beside it, which `unsealed` compares."""
    plain = json.loads(json.dumps(values))
    return {**plain, SEAL: json_digest(plain)}


def unsealed(values: dict[str, Any], source: object, remedy: str = "copy it again or make it anew") -> dict[str, Any]:
    """The object without its digest; one that has none (of an earlier version, or written by hand) as it is.

    Raises `CheckpointError` naming `source`, and what to do, when the content is not the one that was written.
    """
    if SEAL not in values:
        return values
    content = {key: value for key, value in values.items() if key != SEAL}
    if json_digest(content) != values[SEAL]:
        raise CheckpointError(
            f"{source} was damaged or edited: its content does not match its {SEAL}; {remedy} (if the change is meant, remove "
            f"its {SEAL})"
        )
    return content


def write_json(value: Any, path: Path) -> None:
    """Readable, sorted JSON, whole or not at all; objects are sealed, so that `read_json` notices any later change."""
    value = sealed(value) if isinstance(value, Mapping) else value
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def read_json(path: Path, *keys: str, expected: str = "a folder written by this tool") -> dict[str, Any]:
    """A JSON object with at least these top-level `keys`; `expected` says in an error what was looked for.

    Raises `CheckpointError` when the file is missing, cannot be read, is not JSON, not an object, lacks a key or was changed.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} does not exist; {stage_of(path.parent) or f'expected {expected}'}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path} cannot be read as JSON: it is nested too deeply") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # not UTF-8, not JSON, or a number of thousands of digits
        if (kind := placeholder(path)) is not None:
            raise CheckpointError(f"{path} {kind}; expected {expected}") from error
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); expected {expected}: {_remedy(path)}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a JSON object; {_remedy(path)}")
    value = unsealed(value, path, _remedy(path))
    for key in keys:
        if key not in value:
            raise CheckpointError(f"{path} lacks {key!r}; it was edited or damaged: {_remedy(path)}")
    return value


def stage_of(folder: Path) -> str | None:
    """What a folder is that stands before a network and its files, and what to do with it; None for any other."""
    return next((words.format(shlex.quote(str(folder))) for name, words in STAGES.items() if (folder / name).is_file()), None)


def _remedy(path: Path) -> str:
    """What to do about a damaged file: the report of a run is made of the files beside it."""
    if path.name == "report.json" and (path.parent / "run.json").is_file():
        return f"write it again with: autoformer report build {shlex.quote(str(path.parent))}"
    return "copy it again or make it anew"


def refuse_stand_in(path: Path) -> None:
    """Raises `CheckpointError` where something else lies in the place of a binary file: a pointer, a web page, a text."""
    if (kind := stand_in(path)) is not None:
        raise CheckpointError(f"{path} {kind}")


def append_line(value: Mapping[str, Any], path: Path) -> None:
    """Adds a line of sealed JSON to a file; it is on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(json.dumps(sealed(value), separators=(",", ":")).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file, none where it does not exist. One without an end is cut off: a process died while it wrote it."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.splitlines()


def read_document(path: Path, *formats: str, expected: str) -> dict[str, Any]:
    """A JSON object whose "format" is one of `formats`; `expected` says in an error what writes such files.

    Raises `CheckpointError` as `read_json` does, and for another format.
    """
    values = read_json(path, "format", expected=expected)
    if values["format"] not in formats:
        known = " or ".join(map(repr, formats))
        raise CheckpointError(f"{path} has format {short(repr(values['format']), 60)}, expected {known}: {expected}")
    return values


@contextmanager
def believing(source: object, advice: str, *, fault: str = "is damaged") -> Iterator[None]:
    """Turns what values from a file do to the code that takes them into one `CheckpointError`.

    `source` is the file, or words for a part of it, `fault` what is wrong with it then, and `advice` what to do about it.
    """
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"{source} {fault} ({error} is missing); {advice}") from error
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RecursionError, AutoformerError) as error:
        raise CheckpointError(f"{source} {fault} ({short(' '.join(str(error).split()))}); {advice}") from error


def file_state(path: Path) -> tuple[str | int, ...]:
    """What changes when a file is written, copied or replaced; for digests that are computed once per process."""
    state = path.stat()
    return str(path.resolve()), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
