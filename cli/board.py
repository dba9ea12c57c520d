"""The program of a bundle, for the device itself: `python3 board.pyz verify | predict | bench | build`.

Needs Python 3.10, numpy, Pillow and the runtime that is there, ONNX Runtime or TensorRT; nothing else. The bundle is the
folder that the program lies in, unless --bundle names another. Exit codes: 0 all is as promised, 1 something is not, 2 the
command or the bundle cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoformer.checkpoint import read_json
from autoformer.errors import AutoformerError, CheckpointError, DataError, MissingPackageError
from autoformer.export.manifest import Artefact, Manifest, check_inside, sha256_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "autoformer/bundle/1"
ENGINES = "engines"  # folder that `build` writes
BATCHES = (1, 2, 5)
LIMITS = tuple(f"{kind}_{measure}" for kind in ("max", "min") for measure in ("params", "flops", "latency_ms"))
NO_IMAGE = (OSError, SyntaxError, ValueError, TypeError, OverflowError, MemoryError)  # what Pillow meets damaged files with


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle: its folder, what it promises, and the manifests of its files and of engines built here."""

    folder: Path
    promises: Mapping[str, Any]
    manifest: Manifest
    engines: Manifest | None

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Raises `CheckpointError` when `folder` is no bundle."""
        promises = read_json(folder / "bundle.json", "format", "files", "budget", "labels")
        if promises["format"] != FORMAT:
            raise CheckpointError(f"{folder / 'bundle.json'} has format {str(promises['format'])[:40]!r}, expected {FORMAT!r}")
        for key, objection in objections(promises):
            raise CheckpointError(f"{folder / 'bundle.json'}: {key} {objection}; it was edited or damaged, copy the bundle again")
        built = folder / ENGINES
        engines = Manifest.load(built) if (built / "manifest.json").is_file() else None
        return cls(folder, promises, Manifest.load(folder), engines)

    def artefacts(self) -> Iterator[tuple[Path, Artefact]]:
        """The exported files with their folders."""
        for folder, manifest in ((self.folder, self.manifest), (self.folder / ENGINES, self.engines)):
            for artefact in manifest.artefacts if manifest is not None else ():
                if artefact.status == "exported":
                    yield folder, artefact

    def check_images(self) -> NDArray[Any]:
        """The check images as the files take them, [n, C, H, W]: normalised float32, or uint8 pixels."""
        import numpy as np
        from PIL import Image

        pixels = []
        for index in range(len(self.promises["labels"])):
            path = self.folder / "check" / f"{index:04d}.png"
            size, channels = self.manifest.preprocessing.image_size, self.manifest.preprocessing.in_chans
            try:
                with Image.open(path) as image:
                    if image.size != (size, size) or len(image.getbands()) != channels:
                        raise ValueError(f"{image.size} pixels of {len(image.getbands())} channels")
                    pixels.append(np.asarray(image, np.uint8).reshape(size, size, channels))
            except (*NO_IMAGE, Image.DecompressionBombError) as error:
                raise CheckpointError(
                    f"{path} is no check image of {size} pixels ({one_line(error)}); copy the bundle again"
                ) from error
        return self.manifest.preprocessing.prepare(np.stack(pixels))

    def expected_logits(self) -> NDArray[np.float32]:
        """What the network gave these images on the machine that made the bundle, float32 [n, classes]."""
        import numpy as np

        path, wanted = self.folder / "check" / "logits.npy", (len(self.promises["labels"]), len(self.manifest.classes))
        try:
            header = path.stat().st_size - 4 * wanted[0] * wanted[1]
            if not 0 < header < 1024:  # before numpy believes a shape that the file could not hold
                raise ValueError(f"{path.stat().st_size} bytes")
            found = np.load(path, allow_pickle=False)
            if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.shape != wanted:
                raise ValueError("of another type or shape")
            return found
        except Exception as error:  # numpy lets errors of Python's tokenizer through
            raise CheckpointError(
                f"{path} holds no float32 logits {list(wanted)} ({one_line(error)}); copy the bundle again"
            ) from error


def objections(promises: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What cannot be in a bundle.json, by key."""
    limits, labels, files = promises["budget"], promises["labels"], promises["files"]
    if not isinstance(limits, dict) or not all(name in LIMITS and is_number(limit) for name, limit in limits.items()):
        yield "budget", f"is {str(limits)[:80]!r}, expected limits like max_params with a number each"
    if not isinstance(labels, list) or not labels or not all(type(label) is int and 0 <= label < 2**31 for label in labels):
        yield "labels", "are not the numbers of classes, one per check image"
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        yield "files", "are not names with a digest each"


def is_number(value: object) -> bool:
    """Whether JSON gave a finite number."""
    return type(value) in (int, float) and abs(value) < float("inf")  # type: ignore[arg-type]


def one_line(error: Exception) -> str:
    """What an error says, short."""
    return " ".join(str(error).split())[:100] or type(error).__name__


# --- commands ----------------------------------------------------------------------------------------------------


def verify(bundle: Bundle, arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Digests, logits and accuracy of every file that runs here, and the budget."""
    from autoformer.export.parity import TOLERANCES, compare, run_in_batches

    answer: dict[str, Any] = {"files": damaged(bundle), "artefacts": {}, "budget": budget(bundle, arguments)}
    labels = bundle.promises["labels"]
    if not answer["files"]:
        images, expected = bundle.check_images(), bundle.expected_logits()
        for folder, artefact in bundle.artefacts():
            name = f"{artefact.format} {artefact.precision}"
            try:
                with opened(folder, artefact) as run:
                    given, sizes = run_in_batches(run, images, BATCHES)
            except MissingPackageError as error:
                answer["artefacts"][name] = {"status": "not run", "reason": str(error)}
                continue
            parity = compare(
                expected, given, precision=artefact.precision, batches=sizes, tolerance=TOLERANCES[artefact.precision]
            )
            right = int((given.argmax(1) == labels).sum())
            status = "as promised" if parity.passed else "differs"
            answer["artefacts"][name] = {"status": status, "reason": parity.reason, "right": right, "images": len(labels)}
    states = [entry["status"] for entry in answer["artefacts"].values()]
    kept = all(entry["status"] != "not met" for entry in answer["budget"].values())
    return answer, not answer["files"] and "differs" not in states and "as promised" in states and kept


def predict(bundle: Bundle, arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """The most probable classes of image files."""
    import numpy as np
    from PIL import Image

    folder, artefact = chosen(bundle, arguments.precision)
    found: dict[str, Any] = {}
    with opened(folder, artefact) as run:
        for path in arguments.images:
            try:
                with Image.open(path) as image:
                    pixels = bundle.manifest.preprocessing(image)
            except FileNotFoundError as error:
                raise DataError(f"{path} does not exist; expected an image file") from error
            except (*NO_IMAGE, Image.DecompressionBombError) as error:
                raise DataError(f"{path} cannot be read as an image ({one_line(error)}); save it as PNG or JPEG") from error
            logits = run(pixels[None])[0].astype(np.float64)
            if logits.shape != (len(bundle.manifest.classes),):
                raise CheckpointError(
                    f"{folder / 'manifest.json'} names {len(bundle.manifest.classes)} classes, {artefact.file} gives "
                    f"{list(logits.shape)}; copy the bundle again"
                )
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            best = np.argsort(-shares)[: arguments.top]
            found[str(path)] = [{"name": bundle.manifest.classes[index], "probability": float(shares[index])} for index in best]
    return found, True


def bench(bundle: Bundle, arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Latency of every file that runs here, measured in turn by the protocol of the toolchain."""
    taken, missing = measured(bundle, arguments)
    return {"measurements": {name: entry.to_dict() for name, entry in taken.items()}, "not measured": missing}, bool(taken)


def build(bundle: Bundle, arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """TensorRT engines of the fp32 and fp16 files, each compared with the logits of the bundle before it counts."""
    from dataclasses import replace

    from autoformer.export.engine import Engine
    from autoformer.export.engine_builder import EngineBuilder, EngineConfig
    from autoformer.export.parity import TOLERANCES, compare, filled_up, run_in_batches
    from autoformer.export.tensorrt_versions import tensorrt_missing

    if missing := tensorrt_missing():
        raise MissingPackageError(missing)
    images, expected = bundle.check_images(), bundle.expected_logits()
    out, made = bundle.folder / ENGINES, []
    out.mkdir(exist_ok=True)
    for precision in ("fp32", "fp16"):
        source = bundle.manifest.find("onnx", precision)
        if source is None or source.status != "exported":
            continue
        plan = out / f"model.{precision}.plan"
        batch = arguments.batch or 1
        model = bundle.manifest.verified_file(bundle.folder, source)
        config = EngineConfig(precision=precision, profiles=((1, batch, max(8, batch)),))
        built = EngineBuilder(config).build(model, plan)
        with Engine.load(plan, sha256=built.sha256) as engine:
            given, sizes = run_in_batches(filled_up(engine, source.batch), images, BATCHES)
        parity = compare(expected, given, precision=precision, batches=sizes, tolerance=TOLERANCES[precision])
        status = "exported" if parity.passed else "rejected"
        file: dict[str, Any] = {"file": plan.name, "sha256": built.sha256, "bytes": plan.stat().st_size} if parity.passed else {}
        made.append(
            Artefact(
                format="tensorrt", precision=precision, status=status, reason=parity.reason, input_name=source.input_name,
                input_shape=source.input_shape, output_name=source.output_name, parity=parity,
                made=built.made(), **file,
            )
        )  # fmt: skip
        if not parity.passed:
            plan.unlink()
    replace(bundle.manifest, artefacts=tuple(made)).save(out)
    return {entry.precision: {"status": entry.status, "reason": entry.reason} for entry in made}, all(
        entry.status == "exported" for entry in made
    )


# --- what they share ---------------------------------------------------------------------------------------------


def damaged(bundle: Bundle) -> list[str]:
    """Files that are missing or not those of the bundle."""
    found = []
    for name, digest in sorted(bundle.promises["files"].items()):
        check_inside(name)
        path = bundle.folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif sha256_of(path) != digest:
            found.append(f"{name} is another file than the bundle was made with")
    return found


def budget(bundle: Bundle, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Each limit with what is known here: "met", "not met", "not shown"."""
    found: dict[str, dict[str, Any]] = {}
    for name, limit in bundle.promises["budget"].items():
        kind, measure = name.split("_", 1)
        if measure != "latency_ms":
            value = getattr(bundle.manifest, measure)
            kept = value is not None and (value <= limit if kind == "max" else value >= limit)
            found[name] = {"limit": limit, "value": value, "status": "met" if kept else "not met"}
            continue
        taken, _ = measured(bundle, arguments, only="fp32")
        if not taken:
            found[name] = {"limit": limit, "status": "not shown", "reason": "no runtime here measures it"}
        for what, entry in taken.items():
            low, high = entry.stats.p50_low_ms, entry.stats.p50_high_ms
            status = "not shown"
            if entry.verdict.level == "VALID" and low is not None and high is not None:
                status = "met" if high <= limit else "not met" if low > limit else "not shown"
            means = bundle.promises.get("latency_means")
            found[name] = {
                "limit": limit, "limit means": means, "measured": what, "median_ms": entry.stats.p50_ms, "low_ms": low,
                "high_ms": high, "verdict": str(entry.verdict), "status": status,
            }  # fmt: skip
            break
    return found


def measured(bundle: Bundle, arguments: argparse.Namespace, only: str | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Measurements by name, and why others are missing."""
    from contextlib import ExitStack

    from autoformer.errors import MeasurementError
    from autoformer.profiling.measure import MeasureConfig, measure

    missing: dict[str, str] = {}
    with ExitStack() as stack:
        backends: dict[str, Any] = {}
        for folder, artefact in bundle.artefacts():
            if only not in (None, artefact.precision):
                continue
            path = bundle.manifest.verified_file(folder, artefact)
            name, batch = f"{artefact.format} {artefact.precision}", artefact.batch or arguments.batch or 1
            if arguments.batch not in (None, batch):
                missing[name] = f"it takes exactly {artefact.batch} images, asked for {arguments.batch}"
                continue
            try:
                if artefact.format == "tensorrt":
                    from autoformer.profiling.tensorrt_backend import TensorRTBackend

                    backends[name] = stack.enter_context(TensorRTBackend(path, batch=batch, precision=artefact.precision))
                else:
                    from autoformer.profiling.onnxruntime_backend import OnnxRuntimeBackend

                    backends[name] = stack.enter_context(
                        OnnxRuntimeBackend(path, batch=batch, threads=arguments.threads, precision=artefact.precision)
                    )
            except (MissingPackageError, MeasurementError) as error:
                missing[name] = str(error)
        config = MeasureConfig(min_s=arguments.seconds, max_s=4 * arguments.seconds)
        return (measure(backends, config) if backends else {}), missing


@contextmanager
def opened(folder: Path, artefact: Artefact) -> Iterator[Callable[[NDArray[Any]], NDArray[np.float32]]]:
    """A file of the bundle as a function from images to logits. Raises `MissingPackageError` where its runtime is not."""
    from autoformer.export.parity import filled_up

    assert artefact.file is not None
    path = folder / artefact.file
    if artefact.format == "tensorrt":
        from autoformer.export.engine import Engine

        with Engine.load(path, sha256=artefact.sha256) as engine:
            yield filled_up(engine, artefact.batch)
        return
    from autoformer.export.onnx_model import OnnxModel

    yield filled_up(OnnxModel(path), artefact.batch)


def chosen(bundle: Bundle, precision: str | None) -> tuple[Path, Artefact]:
    """The file to predict with: an engine built here before an ONNX file. Raises `CheckpointError` naming what there is."""
    every = list(bundle.artefacts())
    for folder, artefact in reversed(every):
        if artefact.precision == (precision or "fp32"):
            bundle.manifest.verified_file(folder, artefact)
            return folder, artefact
    have = ", ".join(sorted({artefact.precision for _, artefact in every})) or "none"
    raise CheckpointError(f"{bundle.folder} holds no file of precision {precision!r}, only {have}")


COMMANDS = {"verify": verify, "predict": predict, "bench": bench, "build": build}


def main(words: list[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(
        prog="board.pyz", description="Checks, runs and times the networks of a bundle on this device."
    )
    parser.add_argument("--bundle", type=Path, default=Path(sys.argv[0]).resolve().parent, help="folder of the bundle")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=(command.__doc__ or "").splitlines()[0])
        one.add_argument("--json", action="store_true", help="one JSON document instead of lines")
        if name == "predict":
            one.add_argument("images", nargs="+", help="image files")
            one.add_argument("--top", type=int, default=3, help="classes shown per image")
            one.add_argument("--precision", choices=("fp32", "fp16", "int8"), help="default: fp32")
        else:
            one.add_argument("--batch", type=int, default=None, help="images in one call; default: 1, or what a file is fixed to")
            one.add_argument("--threads", type=int, default=1, help="CPU threads")
            one.add_argument("--seconds", type=float, default=3.0, help="measuring time per file")
    arguments = parser.parse_args(words)
    try:
        answer, good = COMMANDS[arguments.command](Bundle.open(arguments.bundle), arguments)
    except ModuleNotFoundError as error:
        print(f"error: package {error.name!r} is missing; install it with: pip install {error.name}", file=sys.stderr)
        return 2
    except AutoformerError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(json.dumps(answer, indent=2, ensure_ascii=False) if arguments.json else "\n".join(lines(answer)))
    return 0 if good else 1


def lines(answer: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """An answer for people: a line per entry, samples left out."""
    for name, value in answer.items():
        if name.endswith("samples_ms") or name in ("device", "settings", "round_runs"):
            continue
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}"
            yield from lines(value, indent + "  ")
        elif isinstance(value, list):
            yield f"{indent}{name}: " + ("; ".join(_words(entry) for entry in value) or "none")
        else:
            yield f"{indent}{name}: {_words(value)}"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(_words(entry) for entry in value.values())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
