"""`Kit`: a folder of networks to measure on a device, and what the device is asked to do with them.

    kit.json              this manifest: space, networks, digests of all files, what is wanted, when to stop
    networks/             ONNX graphs, and the one file of weights they share
    board.pyz             measures them: `python3 board.pyz measure`
    README.md             what to type, and what comes back

Nothing in it but the graphs is read by a runtime, and they only after their digests were compared. Imports the standard
library only and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from autoformer.architecture import Architecture
from autoformer.errors import CheckpointError, MeasurementError, short
from autoformer.export.manifest import leads_outside, sha256_of
from autoformer.files import believing, read_json, write_json

FORMAT = "autoformer/kit/1"
FILE_NAME = "kit.json"
PRECISIONS = ("fp32", "fp16", "int8")
MOST_NETWORKS = 10_000  # in a kit that is believed


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """When enough has been measured: each network's median is known this closely, or so many rounds were made.

    The interval is that of the median over a network's rounds, after what befell all networks of a round alike was taken out
    (`drift.py`). Raises `MeasurementError` for impossible values.
    """

    min_rounds: int = 6  # below 6 there is no interval
    max_rounds: int = 20
    max_interval: float = 0.02  # width of the 95 % interval of every network's median, relative
    seconds: float = 1.0  # of measuring a network in a round
    min_runs: int = 20  # in a round, unless it takes four times the seconds

    def __post_init__(self) -> None:
        whole = all(type(value) is int and value > 0 for value in (self.min_rounds, self.max_rounds, self.min_runs))
        positive = all(type(value) in (int, float) and 0 < value < 1e6 for value in (self.max_interval, self.seconds))
        if not whole or not positive or not 6 <= self.min_rounds <= self.max_rounds:
            raise MeasurementError(
                f"not a stopping rule: {asdict(self)}; expected 6 rounds or more, at most max_rounds, and positive numbers"
            )


@dataclass(frozen=True, kw_only=True)
class KitNetwork:
    """One network of a kit. `files` are its graphs by precision; `builds` times it is built and measured apart."""

    name: str
    architecture: Architecture
    input_shape: tuple[int, int, int]  # channels, height, width
    files: Mapping[str, str]
    builds: int = 1

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> KitNetwork:
        """Reads the JSON form. Raises `MeasurementError` where something is impossible."""
        network = cls(
            **{
                **values,
                "architecture": Architecture.from_dict(values["architecture"]),
                "input_shape": tuple(values["input_shape"]),
                "files": dict(values["files"]),
            }
        )
        sizes = (*network.input_shape, network.builds)
        if len(sizes) != 4 or not all(type(size) is int and 0 < size < 100_000 for size in sizes):
            raise MeasurementError(f"network {short(network.name, 40)} takes images {short(network.input_shape)}")
        if not isinstance(network.name, str) or not set(network.files) <= set(PRECISIONS):
            raise MeasurementError(f"network {short(network.name, 40)} has files of {short(sorted(network.files))}")
        return network

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            **{item.name: getattr(self, item.name) for item in fields(self)},
            "architecture": self.architecture.to_dict(),
            "input_shape": list(self.input_shape),
            "files": dict(self.files),
        }


@dataclass(frozen=True, kw_only=True)
class Kit:
    """The manifest of a kit."""

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

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it back."""
        return {
            "format": FORMAT,
            "space": dict(self.space),
            "networks": [network.to_dict() for network in self.networks],
            "statistic": self.statistic,
            "precisions": list(self.precisions),
            "batches": list(self.batches),
            "opset": self.opset,
            "seed": self.seed,
            "rule": asdict(self.rule),
            "files": dict(self.files),
            "made": dict(self.made),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Kit:
        """Reads the JSON form. Raises `CheckpointError` where it is of another format, or something is missing or impossible."""
        if values.get("format") != FORMAT:
            raise CheckpointError(f"format is {short(values.get('format'), 40)!r}, expected {FORMAT!r}")
        with believing("it", "copy the kit again, or make it anew"):
            rest = {key: value for key, value in values.items() if key != "format"}
            kit = cls(
                **{
                    **rest,
                    "networks": tuple(KitNetwork.from_dict(network) for network in values["networks"]),
                    "precisions": tuple(values["precisions"]),
                    "batches": tuple(values["batches"]),
                    "rule": StoppingRule(**values["rule"]),
                }
            )
            names = [network.name for network in kit.networks]
            if not 0 < len(names) == len(set(names)) <= MOST_NETWORKS:
                raise MeasurementError(f"{len(names)} networks, {len(set(names))} different names")
            if not kit.precisions or not set(kit.precisions) <= set(PRECISIONS):
                raise MeasurementError(f"precisions {short(kit.precisions)}")
            if not kit.batches or not all(type(batch) is int and 0 < batch < 100_000 for batch in kit.batches):
                raise MeasurementError(f"batches {short(kit.batches)}")
            if outside := [name for name in kit.files if leads_outside(name)]:
                raise MeasurementError(f"file {short(outside[0], 80)!r} is not inside the kit")
            for network in kit.networks:
                if unknown := [name for name in network.files.values() if name not in kit.files]:
                    raise MeasurementError(f"file {short(unknown[0], 80)!r} of network {network.name} has no digest")
                if missing := set(kit.precisions) - set(network.files):
                    raise MeasurementError(f"network {network.name} has no {sorted(missing)[0]} file")
        return kit

    def save(self, folder: Path) -> None:
        """Writes the manifest into `folder`."""
        write_json(self.to_dict(), folder / FILE_NAME)

    @classmethod
    def load(cls, folder: Path) -> Kit:
        """Reads the manifest in `folder`. Raises `CheckpointError` naming it."""
        values = read_json(folder / FILE_NAME, expected="the folder that `profile kit` wrote")
        try:
            return cls.from_dict(values)
        except CheckpointError as error:
            raise CheckpointError(f"{folder / FILE_NAME} is no kit that can be used: {error}") from error

    def check_files(self, folder: Path) -> None:
        """Raises `CheckpointError` naming the first file that is missing or another one than the kit was made with."""
        for name, digest in sorted(self.files.items()):
            path = folder / name
            if not path.is_file():
                raise CheckpointError(f"{path} is missing; copy the kit again")
            if sha256_of(path) != digest:
                raise CheckpointError(f"{path} is another file than the kit was made with; copy the kit again")
