"""One bit of a file of a run is flipped, and the commands that read the file are given it: is anything else delivered, unsaid?

    python -m tests.support.damage [FLIPS]

prints a table by kind of file. Which commands read which files is not listed here but observed; each of them is tried with the
damaged file, and what it delivers (its JSON on the terminal, the files it writes) is compared with what it delivers undamaged.
"""

from __future__ import annotations

import gc
import io
import json
import random
import re
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from autoformer.cli.board import bundle_program as board
from autoformer.errors import AutoformerWarning
from autoformer.files import SEAL
from autoformer.tensors import tensors_digest
from tests.support.commands import Answer, command

# From one time to the next; and how much was found stored, which is told and decides nothing.
CHANGING = {SEAL, "seconds", "steps", "time", "created", "images_per_s", "wait_share", "load_average", "reused"}
IMAGES = re.compile(r"\.(png|npy|zip|html|md|txt|pbtxt|onnx|pyz)$")


class Outcome(IntEnum):
    """What became of a flip, the worst last."""

    NO_EFFECT = 0
    REFUSED = 1
    WARNED = 2
    OTHER = 3
    TRACEBACK = 4


@dataclass(frozen=True)
class Use:
    """A command on files of the place, and what of the place it delivers beside its words on the terminal."""

    words: tuple[object, ...]
    delivers: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()  # before: what stands there would be answered with, unread


@dataclass
class Place:
    """A folder whose files are damaged one at a time: `work` is made anew from `whole` before each command."""

    whole: Path
    work: Path
    uses: Sequence[Use]
    expected: dict[Use, Any] = field(default_factory=dict)
    readers: dict[str, list[Use]] = field(default_factory=dict)

    def observe(self) -> None:
        """What each command delivers, twice the same, and which files it reads."""
        for use in self.uses:
            with _opened(self.work) as opened:
                self.expected[use] = self._deliver(use)
            again = self._deliver(use)
            assert again[0] == 0, f"{use.words}: {again}"
            assert self.expected[use] == again, f"{use.words}: {_difference(self.expected[use], again)}"
            for name in sorted(opened & set(self.files())):
                self.readers.setdefault(name, []).append(use)

    def files(self) -> list[str]:
        """Every file that holds something, by name."""
        found = (path for path in sorted(self.whole.rglob("*")) if path.is_file() and path.stat().st_size)
        return [path.relative_to(self.whole).as_posix() for path in found]

    def flip(self, name: str, use: Use, rng: random.Random) -> tuple[Outcome, str]:
        """What a reader of a file makes of one flipped bit, and where that was."""
        content = bytearray((self.whole / name).read_bytes())
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        outcome, said = self._try(use, name, bytes(content))
        return outcome, f"{name} bit {bit}: {' '.join(map(str, use.words[:2]))}: {said}"

    def _try(self, use: Use, name: str, content: bytes) -> tuple[Outcome, str]:
        said: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                warnings, "warn", lambda text, kind=None, *_, **__: said.append(text) if kind is AutoformerWarning else None
            )
            try:
                found = self._deliver(use, name, content)
            except Exception:
                return Outcome.TRACEBACK, traceback.format_exc()
        if found[0]:
            lines = found[1].strip().splitlines()
            one_line = len(lines) == 1 and lines[0].startswith("error: ")
            return (Outcome.REFUSED if one_line else Outcome.TRACEBACK), found[1]
        if said:
            return Outcome.WARNED, said[0]
        if found == self.expected[use]:
            return Outcome.NO_EFFECT, ""
        told = use.words[0] == "board"  # whose answer is about the files
        return (Outcome.REFUSED if told else Outcome.OTHER), _difference(self.expected[use], found)

    def _deliver(self, use: Use, name: str = "", content: bytes = b"") -> Any:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.whole, self.work)
        for other in use.removes:
            path = self.work / other
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if name:
            (self.work / name).write_bytes(content)
        answer = _answer(*(str(word).replace("@", f"{self.work}/") for word in use.words))
        if answer.code:
            return answer.code, answer.err
        out = _steady(json.loads(answer.out)) if answer.out.lstrip()[:1] in ("{", "[") else ""
        return 0, out, {other: _content(self.work / other) for other in use.delivers}


def _answer(*words: str) -> Answer:
    """A command's answer, or with "board FOLDER" before its words that of a bundle's program; figures of speed left out."""
    if words[0] != "board":
        return command(*words)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = board.main(["--bundle", *words[1:]])
    if code == 2:
        return Answer(code, "", err.getvalue())
    found = json.loads(out.getvalue())
    verdicts = {name: verdict["status"] for name, verdict in found["artefacts"].items()}
    return Answer(0, json.dumps({"files": found["files"], "verdicts": verdicts}), "")


def _content(path: Path) -> Any:
    """What a file or a folder holds, in a form that does not change from one time to the next."""
    if path.is_dir():
        return {
            other.relative_to(path).as_posix(): _content(other)
            for other in sorted(path.rglob("*"))
            if other.is_file() and not other.name.startswith(".")
        }
    if path.suffix == ".safetensors":
        return tensors_digest(load_file(path))
    if path.suffix == ".json":
        return _steady(json.loads(path.read_text()))
    return hash(path.read_bytes()) if IMAGES.search(path.name) else None


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if key not in CHANGING}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _difference(before: Any, after: Any, place: str = "") -> str:
    """The first place where two JSON values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
        return _difference(before.get(keys[0]), after.get(keys[0]), f"{place}.{keys[0]}")
    if isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        index = next(index for index, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])
        return _difference(before[index], after[index], f"{place}[{index}]")
    return f"{place} {str(before)[:60]} -> {str(after)[:60]}"


@contextmanager
def _opened(folder: Path) -> Iterator[set[str]]:
    """The names of the files of `folder` that are opened for reading while the block runs."""
    found: set[str] = set()
    watched, root = True, str(folder) + "/"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watched and event in ("open", "sqlite3.connect") and isinstance(arguments[0], str | bytes | Path):
            path = arguments[0].decode() if isinstance(arguments[0], bytes) else str(arguments[0])
            if path.startswith(root) and not (event == "open" and str(arguments[1])[:1] in ("w", "x")):
                found.add(path.removeprefix(root))

    sys.addaudithook(hook)
    try:
        yield found
    finally:
        watched = False


@dataclass
class Table:
    """The outcomes by kind of file."""

    outcomes: dict[str, Counter[Outcome]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def damage(self, place: Place, flips: int, rng: random.Random, label: str) -> None:
        """`flips` bits of a file of every kind that the place holds, each given to the next of the commands that read it."""
        kinds: dict[str, list[str]] = {}
        for name in place.files():
            kinds.setdefault(f"{label} {re.sub('[0-9]{4,}', '#', name)}", []).append(name)
        for kind, names in kinds.items():
            name = next((name for name in names if name in place.readers), "")
            if not name:
                self.unread.append(kind)
                continue
            counts = self.outcomes.setdefault(kind, Counter())
            readers = place.readers[name]
            for number in range(flips):
                outcome, said = place.flip(name, readers[number % len(readers)], rng)
                counts[outcome] += 1
                if outcome >= Outcome.OTHER:
                    self.faults.append(f"{outcome.name}: {said}")
            gc.collect()

    @property
    def total(self) -> Counter[Outcome]:
        """Of all kinds of files."""
        return sum(self.outcomes.values(), Counter())

    def __str__(self) -> str:
        width = max(map(len, self.outcomes))
        lines = [f"{'file':{width}}  {'  '.join(f'{outcome.name.lower():>9}' for outcome in Outcome)}"]
        for name, counts in {**self.outcomes, "all": self.total}.items():
            lines.append(f"{name:{width}}  {'  '.join(f'{counts[outcome]:9}' for outcome in Outcome)}")
        return "\n".join([*lines, f"read by no command: {', '.join(self.unread)}", *self.faults])


def damage_everything(flips: int, out: Path, made: tuple[Path, Path] | None = None) -> Table:
    """The table of a short run, its bundle, two trainings and a search that are half finished.

    `made` are a run that is there, and its latency table.
    """
    from tests.support.damaged_runs import places

    rng, table = random.Random(0), Table()
    for label, place in places(out, made):
        place.observe()
        table.damage(place, flips, rng, label)
    return table


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(damage_everything(int(sys.argv[1]) if len(sys.argv) > 1 else 20, Path(folder)))
