"""`Manifest`: what stands beside exported files and says what each is, how it was made and how it was verified.

Paths in it are relative and stay inside its folder; a manifest that points elsewhere is refused. Runs on boards: standard
library only, Python 3.10.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from autoformer.architecture import Architecture, is_whole
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, short
from autoformer.export.parity import Parity
from autoformer.files import file_state, read_json, write_json
from autoformer.records import fields_to_json, from_json

FORMAT = "autoformer/manifest/1"
FILE_NAME = "manifest.json"
ENGINES = ("tensorrt", "tensorrt-rtx")  # formats that are built from ONNX files


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces (Python 3.10 has no `hashlib.file_digest`)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def leads_outside(name: str) -> bool:
    """Whether `name` is anything but a relative path that stays inside its folder on any system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    leaves = posix.is_absolute() or windows.is_absolute() or bool(windows.drive or windows.root) or ".." in windows.parts
    return leaves or name.strip() in ("", ".")


def check_inside(name: str) -> None:
    """Raises `CheckpointError` unless `name` is a relative path that stays inside its folder on any system."""
    if leads_outside(name):
        raise CheckpointError(f"manifest names file {short(repr(name))}, which is not inside its folder; refused")


@dataclass(frozen=True)
class Artefact:
    """One file, or the reason why there is none. Raises `CheckpointError` when status and file contradict each other."""

    format: str  # "onnx", "tensorrt", "tensorrt-rtx"
    precision: str  # "fp32", "fp16", "int8"; of engines "tf32" too
    # verified and here; here, but built for other machines and never run; not verified; not tried
    status: Literal["exported", "built", "rejected", "skipped"]
    reason: str  # one line: what verified it, what was wrong, or what is missing
    file: str | None = None  # relative to the manifest's folder
    sha256: str | None = None
    bytes: int | None = None
    input_name: str | None = None
    input_shape: tuple[int | str, ...] = ()  # "batch" where any batch goes
    output_name: str | None = None
    parity: Parity | None = None
    correct: int | None = None  # of the images of `parity`, where their labels were given
    made: dict[str, Any] = field(default_factory=dict)  # opset, versions, calibration, seconds
    # of int8 by device: the "verdict" ("slower", "faster" or open) against fp32, and its "reason"; measured after the export
    speed: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.status in ("exported", "built")) != (self.file is not None and self.sha256 is not None):
            raise CheckpointError(f"artefact {short(self.name)} is {self.status!r} with file {short(repr(self.file))}")
        if self.status == "built" and not self.is_engine:
            raise CheckpointError(f"artefact {short(self.name)} is 'built', which engines alone can be")
        if self.file is not None:
            check_inside(self.file)
        if not all(set(found) == {"verdict", "reason"} for found in self.speed.values()):
            raise CheckpointError(f"artefact {short(self.name)} has a speed other than a verdict with its reason")

    @property
    def name(self) -> str:
        """ "onnx fp32" and so on."""
        return f"{self.format} {self.precision}"

    @property
    def is_engine(self) -> bool:
        """Whether it was built from an ONNX file, for one version of what runs it."""
        return self.format in ENGINES

    @property
    def advice(self) -> str:
        """On which devices the file is rejected although it is right, one line; empty where on none."""
        slower = [
            f"rejected on {device}: {found['reason']}" for device, found in self.speed.items() if found["verdict"] == "slower"
        ]
        return "; ".join(slower)

    @property
    def batch(self) -> int | None:
        """How many images each call of the file takes exactly; None: any number."""
        first = self.input_shape[0] if self.input_shape else None
        return first if isinstance(first, int) and first > 0 else None


@dataclass(frozen=True)
class Manifest:
    """Everything about one exported network."""

    artefacts: tuple[Artefact, ...]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    params: int
    architecture: Architecture | None = None  # None: not a network of a search space
    flops: int | None = None  # multiply-adds of one image, canonical form; None: not known in closed form
    weights_digest: str | None = None
    data: Mapping[str, Any] | None = None  # the record of the images the network was made for, as its folder holds it
    network: str | None = None  # the name of a foreign network, like timm:NAME

    def __post_init__(self) -> None:
        for name, count in (("params", self.params), ("flops", self.flops or 0)):
            if not is_whole(count, 10**18, least=0):
                raise CheckpointError(f"manifest {name} is {short(repr(count))}, expected a whole number")

    def find(self, format: str, precision: str) -> Artefact | None:
        """The artefact of this format and precision, whatever its status."""
        return next((a for a in self.artefacts if (a.format, a.precision) == (format, precision)), None)

    def find_file(self, name: str) -> Artefact | None:
        """The artefact whose file has this name."""
        return next((a for a in self.artefacts if a.file == name), None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"format": FORMAT, **fields_to_json(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
        """Reads the JSON form. Raises `CheckpointError` on another format, unknown or missing keys, and bad paths."""
        if values.get("format") != FORMAT:
            raise CheckpointError(f"not a manifest: format {short(repr(values.get('format')))}, expected {FORMAT!r}")
        return from_json(cls, values, "manifest", beside=("format",))

    def save(self, folder: Path) -> None:
        """Writes `manifest.json` into `folder`, whole or not at all."""
        write_json(self.to_dict(), folder / FILE_NAME)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads the manifest of `folder`. Raises `CheckpointError` naming the file and what is wrong with it."""
        return cls.read(folder / FILE_NAME)

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """As `load`, of a manifest that may have been copied under another name."""
        try:
            return cls.from_dict(read_json(path))
        except CheckpointError as error:
            text = str(error)
            raise CheckpointError(text if text.startswith(str(path)) else f"{path}: {text}") from error

    def verified_file(self, folder: Path, artefact: Artefact) -> Path:
        """The path of an exported artefact, its digest checked.

        Raises `CheckpointError` when it is not exported, missing, leads outside `folder` or has other content.
        """
        if artefact.file is None:
            raise CheckpointError(f"{artefact.name} was {artefact.status}: {artefact.reason}")
        path = folder / artefact.file
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(f"{path} leads outside {folder}; refused")
        if not path.is_file():
            raise CheckpointError(f"{path} is named in the manifest but missing; copy the whole folder again")
        _check_digest(path, artefact)
        return path


def check_described(path: Path) -> None:
    """Raises `CheckpointError` when a manifest of ours lies beside a file and describes another one of its name."""
    beside = path.parent / FILE_NAME
    if not path.is_file() or not beside.is_file() or read_json(beside).get("format") != FORMAT:
        return
    artefact = Manifest.load(path.parent).find_file(path.name)
    if artefact is not None:
        _check_digest(path, artefact)


def _check_digest(path: Path, artefact: Artefact) -> None:
    state = file_state(path)
    if state not in _digests:
        _digests[state] = sha256_of(path)
    if _digests[state] != artefact.sha256:
        raise CheckpointError(f"{path} is not the file that the manifest describes (other SHA-256); export it again")


_digests: dict[tuple[str | int, ...], str] = {}  # of files that stay as they are: once per process
