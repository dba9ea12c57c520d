"""`Kit`: a benchmark package, the folder of networks that a target device measures, and what it is asked to do with them.

    kit.json              this manifest: space, networks, digests of all files, what is wanted, when to stop
    networks/             ONNX graphs, and the one file of weights they share
    board.pyz             measures them: `python3 board.pyz measure`
    README.md             what to type, and what comes back

Nothing in it but the graphs is read by a runtime, and they only after their digests were compared. Imports the standard
library only and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoformer.architecture import Architecture, is_whole
from autoformer.errors import CheckpointError, MeasurementError, short
from autoformer.export.manifest import leads_outside, sha256_of
from autoformer.files import believing, read_document, write_json
from autoformer.records import fields_to_json, from_json

FORMAT = "autoformer/kit/1"
FILE_NAME = "kit.json"
PRECISIONS = ("fp32", "fp16", "int8")
MOST_NETWORKS = 10_000  # in a kit that is believed
MOST = 100_000  # pixels, channels, builds and images in a call that are believed


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """When enough has been measured: each network's median is known this closely, or so many rounds were made.

    The interval is that of the median over a network's rounds, without the drift that all networks of a round share
    (`drift.py`). Raises `MeasurementError` for impossible values.
    """

    min_rounds: int = 6  # below 6 there is no interval
    max_rounds: int = 20
    max_interval: float = 0.02  # width of the 95 % interval of every network's median, relative
    seconds: float = 1.0  # of measuring a network in a round
    min_runs: int = 20  # in a round, unless it takes four times the seconds

    def __post_init__(self) -> None:
        if not all(0 < value < 1e6 for value in asdict(self).values()) or not 6 <= self.min_rounds <= self.max_rounds:
            raise MeasurementError(
                f"not a stopping rule: {asdict(self)}; expected 6 rounds or more, at most max_rounds, and positive numbers"
            )


@dataclass(frozen=True, kw_only=True)
class KitNetwork:
    """One network of a kit. Raises `MeasurementError` for impossible values."""

    name: str
    architecture: Architecture
    input_shape: tuple[int, int, int]  # channels, height, width
    files: Mapping[str, str]  # graphs by precision
    builds: int = 1  # so often it is built and measured apart

    def __post_init__(self) -> None:
        if not all(is_whole(size, MOST) for size in (*self.input_shape, self.builds)):
            raise MeasurementError(f"network {short(self.name, 40)} takes images {short(self.input_shape)}, {self.builds} builds")
        if not set(self.files) <= set(PRECISIONS):
            raise MeasurementError(f"network {short(self.name, 40)} has files of {short(sorted(self.files))}")


@dataclass(frozen=True, kw_only=True)
class Kit:
    """The manifest of a kit. Raises `MeasurementError` for what no kit holds."""

    space: Mapping[str, Any]  # `SearchSpace.to_dict`
    networks: tuple[KitNetwork, ...]
    statistic: str  # that the table is wanted of
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    opset: int
    seed: int
    rule: StoppingRule
    files: Mapping[str, str]  # SHA-256 by name, of everything but the manifest
    made: Mapping[str, str] = field(default_factory=dict)  # versions

    def __post_init__(self) -> None:
        names = [network.name for network in self.networks]
        if not 0 < len(names) == len(set(names)) <= MOST_NETWORKS:
            raise MeasurementError(f"{len(names)} networks, {len(set(names))} different names")
        if not self.precisions or not set(self.precisions) <= set(PRECISIONS):
            raise MeasurementError(f"precisions {short(self.precisions)}")
        if not self.batches or not all(is_whole(batch, MOST) for batch in self.batches):
            raise MeasurementError(f"batches {short(self.batches)}")
        if outside := [name for name in self.files if leads_outside(name)]:
            raise MeasurementError(f"file {short(outside[0], 80)!r} is not inside the kit")
        for network in self.networks:
            if unknown := [name for name in network.files.values() if name not in self.files]:
                raise MeasurementError(f"file {short(unknown[0], 80)!r} of network {network.name} has no digest")
            if missing := set(self.precisions) - set(network.files):
                raise MeasurementError(f"network {network.name} has no {sorted(missing)[0]} file")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        return {"format": FORMAT, **fields_to_json(self)}

    @classmethod
    def from_dict(cls, values: object) -> Kit:
        """Reads the JSON form. Raises `CheckpointError` or `MeasurementError` where something is missing or impossible."""
        return from_json(cls, values, beside=("format", "sha256"))  # its own digest, where it is part of a result

    def save(self, folder: Path) -> None:
        """Writes the manifest into `folder`."""
        write_json(self.to_dict(), folder / FILE_NAME)

    @classmethod
    def load(cls, folder: Path) -> Kit:
        """Reads the manifest in `folder`. Raises `CheckpointError` naming it."""
        path = folder / FILE_NAME
        values = read_document(path, FORMAT, expected="the folder that `profile kit` wrote")
        with believing(path, "copy the kit again, or make it anew"):
            return cls.from_dict(values)

    def check_files(self, folder: Path) -> None:
        """Raises `CheckpointError` naming the first file that is missing or another one than the kit was made with."""
        for name, digest in sorted(self.files.items()):
            path = folder / name
            if not path.is_file():
                raise CheckpointError(f"{path} is missing; copy the kit again")
            if sha256_of(path) != digest:
                raise CheckpointError(f"{path} is another file than the kit was made with; copy the kit again")
