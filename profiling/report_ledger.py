"""How often the test part was read: by one run, and by all runs that lie beside it.

A score on a test part is worth less with every choice that was made after a reading of it, by whichever run. Each run keeps
a ledger of its own readings; runs in the same parent folder that name the same digest have read the same images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoformer.checkpoint import read_json
from autoformer.errors import CheckpointError

LEDGER, FORMAT = "test_ledger.json", "autoformer/test-ledger/1"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One reading of the test part, as its ledger has it."""

    reader: str
    split: str
    images: int
    time: str


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What other runs in the same parent folder read of one test part."""

    runs: int  # those with at least one reading of it
    readings: int
    damaged: tuple[str, ...]  # folders that cannot be read, or whose ledger cannot, by name


def read_ledger(path: Path) -> tuple[Reading, ...]:
    """Every reading in the ledger. Raises `CheckpointError` naming the file when it is missing, damaged or something else."""
    record = read_json(path, "format", "readings")
    if record["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {str(record['format'])[:40]!r}, expected {FORMAT!r}")
    try:
        found = tuple(Reading(**reading) for reading in record["readings"])
    except TypeError as error:
        raise CheckpointError(f"{path} is damaged: a reading cannot be read ({error})") from error
    for reading in found:
        if not all(isinstance(word, str) for word in (reading.reader, reading.split, reading.time)):
            raise CheckpointError(f"{path} is damaged: a reading names no reader, split or time")
    return found


def readings_beside(folder: Path, split: str) -> Beside:
    """Readings of the test part with the digest `split` by the folders beside `folder`, each counted once."""
    own = folder.resolve()
    try:
        others = {path.resolve() for path in own.parent.iterdir()} - {own}  # links to one folder count once
    except OSError:
        return Beside(runs=0, readings=0, damaged=(own.parent.name,))
    counts, damaged = list[int](), list[str]()
    for other in sorted(others):
        try:
            if (other / LEDGER).is_file():
                counts.append(sum(reading.split == split for reading in read_ledger(other / LEDGER)))
        except (CheckpointError, OSError):
            damaged.append(other.name)
    return Beside(runs=sum(count > 0 for count in counts), readings=sum(counts), damaged=tuple(damaged))
