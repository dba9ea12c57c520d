"""Logits in files, one row of 16-bit floats per image, in sealed chunks.

    view-000.f16      [images, classes], little-endian
    view-000.jsonl    a line per chunk that was written, with the SHA-256 of its bytes

A chunk whose bytes are not those of its line, or that has none, is missing: its process died as it wrote, or a disk lost it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoformer.errors import CheckpointError, TrainingError
from autoformer.files import append_line, unsealed, whole_lines

CHUNK = 128  # images; always the same ones, so that a row does not depend on who computes it and when
ROWS = np.dtype("<f2")


@dataclass(frozen=True)
class LogitFiles:
    """The files of `folder`. One process at a time may ask what is missing, and write; any may read."""

    folder: Path
    images: int
    classes: int

    @property
    def bytes_of_view(self) -> int:
        """The size of one view's rows."""
        return self.images * self.classes * ROWS.itemsize

    @property
    def chunks(self) -> int:
        """How many chunks a view has."""
        return -(-self.images // CHUNK)

    def members(self, chunk: int) -> range:
        """The images of a chunk."""
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.images))

    def missing(self, view: int) -> list[int]:
        """The chunks of a view that are not there, or damaged. Raises `TrainingError` where its file cannot be made or read."""
        path = self._path(view)
        with _written(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("ab"):
                pass
            if path.stat().st_size != self.bytes_of_view:
                os.truncate(path, self.bytes_of_view)
            digests = self._digests(view)
            with path.open("rb") as file:
                return [chunk for chunk in range(self.chunks) if _digest(file.read(self._bytes(chunk))) != digests.get(chunk)]

    def keep(self, view: int, chunk: int, rows: NDArray[np.float16]) -> None:
        """Writes and seals the rows of a chunk. Raises `TrainingError` where there is no room."""
        assert rows.shape == (len(self.members(chunk)), self.classes), "a chunk is written whole"
        path, content = self._path(view), rows.astype(ROWS).tobytes()
        with _written(path):
            with path.open("r+b") as file:
                file.seek(chunk * self._bytes(0))
                file.write(content)
            append_line({"chunk": chunk, "sha256": _digest(content)}, path.with_suffix(".jsonl"))

    def rows(self, view: int) -> NDArray[np.float16]:
        """All rows of a view, read from the disk where they are asked for. Raises `TrainingError` where they are not there."""
        path = self._path(view)
        try:
            return np.memmap(path, ROWS, "r", shape=(self.images, self.classes))
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"{path} cannot be read: with teacher.views every process reads the logits from the folder of the training; "
                "put it on a disk that they all have"
            ) from error

    def _path(self, view: int) -> Path:
        return self.folder / f"view-{view:03d}.f16"

    def _bytes(self, chunk: int) -> int:
        return len(self.members(chunk)) * self.classes * ROWS.itemsize

    def _digests(self, view: int) -> dict[int, str]:
        """The digest of each chunk that was written, as its newest line has it; a damaged line is as if it were not there."""
        found: dict[int, str] = {}
        for line in whole_lines(path := self._path(view).with_suffix(".jsonl")):
            try:
                sealed = unsealed(json.loads(line), path)
                found[int(sealed["chunk"])] = str(sealed["sha256"])
            except (CheckpointError, ValueError, KeyError, TypeError, RecursionError):
                continue
        return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written ({error.strerror or error}); make room or mend the folder, then run the same command "
            "again to go on"
        ) from error
