"""A bundle on the device: the results it expects, its files, its check images, and each file as a function of images.

Standard library only; works on Python 3.10. numpy, Pillow and the runtimes are imported by what needs them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoformer.data.decoding import open_image
from autoformer.errors import CheckpointError, DataError
from autoformer.export.engines.trtexec import trtexec_path
from autoformer.export.expected import ExpectedResults
from autoformer.export.manifest import Artefact, Manifest, check_inside, sha256_of
from autoformer.export.parity import filled_up

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autoformer.export.parity import Model

ENGINES = "engines"  # folder that `build` writes
FP32_LOGITS = "check/logits.npy"
RUNTIMES = ("onnxruntime", "tensorrt", "tensorrt_rtx")  # modules, one of which is enough


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle: its folder, the results it expects, and the manifests of its files and of engines built here."""

    folder: Path
    expected: ExpectedResults
    manifest: Manifest
    engines: Manifest | None

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Raises `CheckpointError` when `folder` is not a bundle."""
        expected = ExpectedResults.load(folder)
        built = folder / ENGINES
        engines = Manifest.load(built) if (built / "manifest.json").is_file() else None
        return cls(folder, expected, Manifest.load(folder), engines)

    def artefacts(self) -> Iterator[tuple[Path, Artefact]]:
        """The files that are here, with their folders."""
        for folder, manifest in ((self.folder, self.manifest), (self.folder / ENGINES, self.engines)):
            for artefact in manifest.artefacts if manifest is not None else ():
                if artefact.file is not None:
                    yield folder, artefact

    def check_images(self) -> NDArray[Any]:
        """The check images as the files take them, [n, C, H, W]: normalised float32, or uint8 pixels."""
        import numpy as np

        pixels = []
        for index in range(len(self.expected.labels)):
            path = self.folder / "check" / f"{index:04d}.png"
            size, channels = self.manifest.preprocessing.image_size, self.manifest.preprocessing.in_chans
            try:
                image = open_image(path)
                if image.size != (size, size) or image.mode != {1: "L", 3: "RGB"}[channels]:
                    raise DataError(f"{image.size} pixels of mode {image.mode}")
                pixels.append(np.asarray(image).reshape(size, size, channels))
            except DataError as error:
                raise CheckpointError(
                    f"{path} is not a check image of {size} pixels ({one_line(error)}); copy the bundle again"
                ) from error
        return self.manifest.preprocessing.prepare(np.stack(pixels))

    def expected_logits(self, name: str = "onnx fp32") -> NDArray[np.float32]:
        """What a file gave these images on the machine that made the bundle, float32 [n, classes]."""
        import numpy as np

        file = self.expected.logits.get(name, FP32_LOGITS)
        check_inside(file)
        path, wanted = self.folder / file, (len(self.expected.labels), len(self.manifest.classes))
        try:
            header = path.stat().st_size - 4 * wanted[0] * wanted[1]
            if not 0 < header < 1024:  # before numpy believes a shape that the file could not hold
                raise ValueError(f"{path.stat().st_size} bytes")
            found = np.load(path, allow_pickle=False)
            if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape != wanted:
                raise ValueError("of another type or shape")
            if not np.isfinite(found).all():
                raise ValueError("not finite")
            return found
        except Exception as error:  # numpy lets errors of Python's tokenizer through
            raise CheckpointError(
                f"{path} holds no float32 logits {list(wanted)} ({one_line(error)}); copy the bundle again"
            ) from error


def lacking() -> list[str]:
    """The modules that a bundle needs and that are not here; ONNX Runtime where nothing at all runs its files."""
    runs = trtexec_path() is not None or any(map(importlib.util.find_spec, RUNTIMES))
    return [name for name in ("numpy", "PIL", *(() if runs else RUNTIMES[:1])) if importlib.util.find_spec(name) is None]


def one_line(error: Exception) -> str:
    """What an error says, short."""
    return " ".join(str(error).split())[:100] or type(error).__name__


def damaged(bundle: Bundle) -> list[str]:
    """Files that are missing or not those of the bundle."""
    found = []
    for name, digest in sorted(bundle.expected.files.items()):
        check_inside(name)
        path = bundle.folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif sha256_of(path) != digest:
            found.append(f"{name} is another file than the bundle was made with")
    return found


@contextmanager
def opened(folder: Path, artefact: Artefact) -> Iterator[Model]:
    """A file of the bundle as a function from images to logits. Raises `MissingPackageError` where its runtime is not."""
    assert artefact.file is not None
    path = folder / artefact.file
    if artefact.is_engine:
        from autoformer.export.engines.artefact import opened_engine

        with opened_engine(path, artefact) as run:
            yield run
        return
    from autoformer.export.graphs.onnx_model import OnnxModel

    yield filled_up(OnnxModel(path), artefact.batch)


def shipped_precision(bundle: Bundle) -> str | None:
    """That of the file which the bundle says to ship; None where it names none."""
    ship = bundle.expected.ship
    return None if ship is None else next((one.precision for _, one in bundle.artefacts() if one.file == ship), None)


def chosen(bundle: Bundle, precision: str | None) -> tuple[Path, Artefact]:
    """The file to predict with: an engine for this machine before an ONNX file, of the precision to ship unless another is asked
    for.

    Raises `CheckpointError` naming what there is.
    """
    from autoformer.export.engines.artefact import runs_here, settings_of

    every, wanted = list(bundle.artefacts()), precision or shipped_precision(bundle) or "fp32"
    for folder, artefact in reversed(every):
        if artefact.precision == wanted and (artefact.status != "built" or runs_here(settings_of(artefact))):
            bundle.manifest.verified_file(folder, artefact)
            return folder, artefact
    have = ", ".join(sorted({artefact.precision for _, artefact in every})) or "none"
    raise CheckpointError(f"{bundle.folder} holds no file of precision {wanted!r}, only {have}")
