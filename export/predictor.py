"""`open_predictor`: whatever can classify images, behind one call.

A network's folder or name (`autoformer.pretrained.named_network`), an ONNX file, an export folder, a bundle or a finished run (of
them the file to ship, else fp32, unless asked for another), a finished race (what it delivered), or a TensorRT plan with its
manifest beside it. What each needs is imported when it is opened, so that a board needs only what it runs.

Letters: n images, C channels, H × W pixels.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoformer.errors import CheckpointError, DataError, MissingPackageError
from autoformer.export.expected import FILE_NAME as BUNDLE
from autoformer.export.manifest import FILE_NAME, Manifest
from autoformer.export.parity import filled_up
from autoformer.files import TIMM, read_json, refuse_unfinished, stage_of
from autoformer.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from autoformer.data.preprocessing import Preprocessing

    Run = Callable[[NDArray[Any]], NDArray[np.float32]]

MAX_BATCH = 64  # images in one call
EXPECTED = (
    "the folder of a network, timm:NAME or timm:NAME@FILE, a run, an export folder, a bundle, an .onnx file or a .plan file with "
    "its manifest"
)
DELIVERED = {"run.json": ("export", "finetuned"), "race.json": ("winner",)}  # by what tells of a folder: where its network lies


@dataclass(frozen=True)
class Predictor:
    """Classifies batches of any size: images [n, C, H, W] as its preprocessing gives them to logits [n, classes].

    A context manager.
    """

    path: Path
    kind: str  # "torch", "onnxruntime", "tensorrt", "tensorrt-rtx"
    precision: str
    preprocessing: Preprocessing | None  # None: the file does not say
    classes: tuple[str, ...] | None  # None: the file does not say
    run: Run  # one call of at most `max_batch` images
    max_batch: int = MAX_BATCH
    release: Callable[[], None] = field(default=lambda: None)
    image_shape: tuple[int | None, ...] | None = None  # channels, height, width, as far as an ONNX file fixes them
    input_type: str = "float32"  # "uint8" for an ONNX file that takes pixels

    def knowing(self, classes: Sequence[str], order: Sequence[str] | None = None) -> Predictor:
        """This predictor for images of these classes: from now on its answers have their order, and must have as many.

        `order` is that of its outputs where it names no classes (None: that of `classes`); other names may stand in it, and come
        last. Raises `DataError` when it knows other classes.
        """
        from autoformer.data.classes import are_the_same, numbers_of, some_of

        own = tuple(self.classes or order or classes)
        if self.classes is not None and not are_the_same(own, classes):
            raise DataError(
                f"{self.path} knows the classes {some_of(self.classes)}, the images have {some_of(classes)}; give the data set "
                "it was made for, or train it for these: autoformer finetune"
            )
        numbers = numbers_of(classes, own)
        rest = sorted(set(range(len(own))) - set(numbers))
        names = (*classes, *(own[number] for number in rest))
        return replace(self, classes=names, run=_reordered(self.run, [*numbers, *rest]))

    def preparation(self, assumed: Preprocessing) -> Preprocessing:
        """What becomes of an image: as this predictor says, else `assumed`, in the type, size and colours that its input has.

        Raises `DataError` for an input that no image is prepared for: channels last, not square, of other channels than 1 or 3.
        """
        if self.preprocessing is not None:
            if str(self.path).startswith(TIMM):  # which says nothing of values beyond 8 bit
                return replace(self.preprocessing, value_range=assumed.value_range)
            return self.preprocessing
        if (unfit := unfit_input(self.image_shape)) is not None:
            raise DataError(f"{self.path} takes {unfit}")
        assumed = replace(assumed, input_type=self.input_type)
        channels, _, width = self.image_shape or (None, None, None)
        if channels in (1, 3) and channels != assumed.in_chans:
            mean, std = ((sum(values) / len(values),) * channels for values in (assumed.mean, assumed.std))
            assumed = replace(assumed, in_chans=channels, mean=mean, std=std)
        return assumed if width is None else replace(assumed, image_size=width, network_size=None)

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Logits [n, classes].

        Raises `DataError` when the images do not fit the network, `CheckpointError` when the class names do not, or when
        logits are infinite or not a number: the largest of those would be no answer.
        """
        import numpy as np

        found = []
        for start in range(0, max(1, len(images)), self.max_batch):
            logits = self.run(np.ascontiguousarray(images[start : start + self.max_batch]))
            if self.classes is not None and logits.shape[-1] != len(self.classes):
                raise CheckpointError(
                    f"{self.path} gives logits of {logits.shape[-1]} classes, expected {len(self.classes)}; give the images it "
                    "was made for, name all its classes with --classes FILE, or train it for other classes: autoformer finetune"
                )
            found.append(logits)
        every = np.concatenate(found)
        if broken := int((~np.isfinite(every)).any(-1).sum()):
            raise CheckpointError(
                f"{self.path} gives {broken} of {len(every)} images logits that are infinite or not a number; it answers nothing "
                "there, train or export it again"
            )
        return every

    def close(self) -> None:
        """Gives device memory back."""
        self.release()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def unfit_input(shape: tuple[int | None, ...] | None) -> str | None:
    """What images an ONNX file takes that are not prepared here, and what to do; None for square ones, 1 or 3 channels first."""
    channels, height, width = shape or (None, None, None)
    if width in (1, 3, 4) and channels not in (None, 1, 3):
        return (
            f"images [batch, height, width, channels] of {channels} × {height} pixels, channels last; they are prepared channels "
            "first here, so put a Transpose with perm 0, 2, 3, 1 before its input, or export it channels first"
        )
    if channels not in (None, 1, 3):
        return f"images of {channels} channels; they have 1 or 3 here"
    if None not in (height, width) and height != width:
        return (
            f"images of {height} × {width} pixels (height × width); they are prepared square here, so export it for a square "
            "size, or with free height and width"
        )
    return None


def shipped_in(place: Path) -> str | None:
    """The name of the ONNX file that a run or a bundle says to ship; None where it names none.

    Raises `CheckpointError` where what says it was damaged: another file would give other answers.
    """
    name: object = None
    if (place / "run.json").is_file() and (place / "report.json").is_file():
        ship = read_json(place / "report.json").get("ship")
        name = ship.get("file") if isinstance(ship, dict) else None
    elif (place / BUNDLE).is_file():
        name = read_json(place / BUNDLE).get("ship")
    return Path(name).name if isinstance(name, str) and name.endswith(".onnx") else None


def open_predictor(
    path: Path | str, *, provider: str = "cpu", threads: int | None = None, precision: str | None = None
) -> Predictor:
    """Opens `path`, or timm's network of this name, for predictions on `provider` ("cpu", "cuda").

    `precision` chooses among the files of an export folder; None: the one that a run or a bundle says to ship, else fp32. Raises
    `CheckpointError` when `path` is nothing that can predict, and `MissingPackageError` when what it needs is not installed.
    """
    words, shipped, path = str(path), shipped_in(Path(path)), delivered_in(Path(path))
    if words.startswith(TIMM):
        if precision not in (None, "fp32"):
            raise CheckpointError(
                f"{words} is not an export folder, so precision {precision!r} cannot be chosen; export it first"
            )
        return _network(words, provider)
    if not path.exists():
        from autoformer.parsing import refuse_missing  # not among what a device needs

        refuse_missing(path, EXPECTED)
    if path.is_dir():
        if (path / FILE_NAME).is_file():
            manifest = Manifest.load(path)
            to_ship = None if shipped is None else manifest.find_file(shipped)
            wanted = precision or (to_ship.precision if to_ship is not None else "fp32")
            artefact = manifest.find("onnx", wanted)
            if artefact is None:
                made = ", ".join(a.precision for a in manifest.artefacts if a.format == "onnx" and a.file)
                raise CheckpointError(f"{path} holds no ONNX file of precision {wanted!r}, only {made or 'none at all'}")
            return _onnx(manifest.verified_file(path, artefact), provider, threads)
        if precision not in (None, "fp32"):
            raise CheckpointError(f"{path} is not an export folder, so precision {precision!r} cannot be chosen; export it first")
        if (path / "config.json").is_file():
            return _network(str(path), provider)
    elif path.suffix == ".onnx":
        return _onnx(path, provider, threads)
    elif path.suffix == ".plan":
        return _engine(path)
    elif path.suffix == ".zip":
        return _archived(path, provider, threads, precision)
    refuse_no_network(path)
    raise CheckpointError(f"{path} cannot predict; expected {EXPECTED}")


def refuse_no_network(path: Path) -> None:
    """Raises `CheckpointError` for a folder, which is no network itself: with those that lie deeper in it, or that none does."""
    if (hint := stage_of(path)) is not None:
        raise CheckpointError(f"{path} cannot predict: {hint}")
    dropped = any(path.parent.glob("after-*.json")) and not (path / "checkpoints").is_dir()  # beside a training of a race
    if not dropped:
        refuse_unfinished(path)
    if not path.is_dir():
        return
    below = sorted({str(file.parent) for depth in range(1, 5) for file in path.glob(f"{depth * '*/'}config.json")})
    more = f" or {len(below) - 2} more" if len(below) > 2 else ""
    there = f"networks lie deeper in it, give {' or '.join(below[:2])}{more}" if below else "no network lies deeper in it either"
    if dropped:
        there = "its race ended this training early, and no weights are kept of it"
    raise CheckpointError(f"{path} is a folder without a network, {there}; expected {EXPECTED}")


def delivered_in(path: Path) -> Path:
    """Where the network of a run or a race lies, its exported files first; any other path as it is."""
    for file, folders in DELIVERED.items():
        if (path / file).is_file():
            made = (path / folder for folder in folders)
            return next((one for one in made if (one / FILE_NAME).is_file() or (one / "config.json").is_file()), path)
    return path


def _reordered(run: Run, order: Sequence[int]) -> Run:
    """`run` with its logits in another order; those of another number of classes stay, and are refused where they arrive."""
    if list(order) == list(range(len(order))):
        return run

    def reordered(images: NDArray[Any]) -> NDArray[np.float32]:
        logits = run(images)
        return logits[..., list(order)] if logits.shape[-1] == len(order) else logits

    return reordered


def torch_model(network: nn.Module) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """`network`, in evaluation mode, as a function of numpy arrays on the device it is on."""
    import numpy as np
    import torch

    assert not network.training, "a network in training mode has no one answer; call eval() first"
    device = next(network.parameters()).device

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = network(torch.from_numpy(np.ascontiguousarray(images)).to(device))
        found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found

    return run


def _onnx(path: Path, provider: str, threads: int | None) -> Predictor:
    from autoformer.export.graphs.onnx_model import OnnxModel

    model = OnnxModel(path, provider, threads)
    return Predictor(
        path=path,
        kind="onnxruntime",
        precision=model.precision,
        preprocessing=model.preprocessing,
        classes=model.classes,
        run=filled_up(model, model.batch),
        max_batch=model.batch or MAX_BATCH,
        image_shape=model.image_shape,
        input_type=model.input_type,
    )


def _archived(path: Path, provider: str, threads: int | None, precision: str | None) -> Predictor:
    """A bundle in an archive. What is opened lies in memory, so the unpacked files are not needed any longer."""
    from autoformer.export.bundle import unpack_bundle

    with temporary_folder("bundle") as temporary:
        folder = unpack_bundle(path, temporary / "bundle")
        opened = open_predictor(folder, provider=provider, threads=threads, precision=precision)
        return replace(opened, path=path / opened.path.relative_to(folder))


def _engine(path: Path) -> Predictor:
    from autoformer.export.engines.artefact import opened_engine, profiles_of
    from autoformer.export.engines.engine import Engine

    manifest = Manifest.load(path.parent) if (path.parent / FILE_NAME).is_file() else None
    artefact = None if manifest is None else manifest.find_file(path.name)
    if manifest is None or artefact is None:
        Engine.load(path).close()  # refuses it, and says why
        raise AssertionError("a plan that no manifest describes was loaded")
    if artefact.status == "built":
        raise CheckpointError(
            f"{path} was built ahead of time and never compared with its network; bundle it, and on its device run: python3 "
            "board.pyz verify"
        )
    if artefact.parity is None or not artefact.parity.passed:
        raise CheckpointError(f"{path} was never compared with its network, so its answers are not trusted; export it again")
    stack = ExitStack()
    return Predictor(
        path=path,
        kind=artefact.format,
        precision=artefact.precision,
        preprocessing=manifest.preprocessing,
        classes=manifest.classes,
        run=stack.enter_context(opened_engine(path, artefact)),
        max_batch=max(high for _, _, high in profiles_of(artefact)),
        release=stack.close,
        input_type=manifest.preprocessing.input_type,
    )


def _network(words: str, provider: str) -> Predictor:
    try:
        import torch

        from autoformer.pretrained.named_network import open_network
    except ImportError as error:
        raise MissingPackageError(f"{words} is a torch network, but {error.name} is not installed; use its ONNX file") from error
    if provider == "cuda" and not torch.cuda.is_available():
        raise MissingPackageError("torch finds no CUDA device; use provider 'cpu'")
    if provider not in ("cpu", "cuda"):
        raise MissingPackageError(f"torch runs on 'cpu' or 'cuda', not {provider!r}")
    named = open_network(words)
    return Predictor(
        path=Path(words),
        kind="torch",
        precision="fp32",
        preprocessing=named.preprocessing,
        classes=named.classes,
        run=torch_model(named.network.to(provider).eval()),
    )
