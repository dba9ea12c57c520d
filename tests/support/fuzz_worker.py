"""Gives damaged files to everything that reads files, in a process of its own that may die of it.

    python -m tests.support.fuzz_worker SUBJECT FIRST COUNT FOLDER

prints `begin N` before mutation N and a line of JSON after it. What an attempt may end in is an `AutoformerError` of one line,
a command that says `error: ` once, or success; anything else is reported with its traceback. Memory is limited, so that an
allocation that no file of this size justifies fails, and a mutation that takes longer than a minute ends the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import io
import json
import random
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import typer.main
from PIL import Image

from autoformer.cli.board import bundle_program as board
from autoformer.errors import AutoformerError
from autoformer.export.bundle import unpack_bundle
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.tensorrt_rules import check_tensorrt
from autoformer.export.manifest import sha256_of
from autoformer.export.predictor import Predictor, open_predictor
from autoformer.files import SEAL
from autoformer.profiling.backends.of_artefacts import onnx_precision
from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend
from tests.support.commands import command
from tests.support.foreign_models import BESIDE
from tests.support.fuzz_written import try_manifest, try_recipe
from tests.support.fuzzed_images import folder_with, readings
from tests.support.image_files import damaged_image, every_kind
from tests.support.mutations import damaged_archive, damaged_bytes, damaged_files, damaged_onnx

MEMORY_BYTES = 12 << 30  # of addresses; the libraries alone map some
SECONDS = 60
LIKELY = ("bundle.json", "manifest.json", "preprocessing.json", "check/logits.npy", "check/0000.png", "model.fp32.onnx")


def attempt(work: Callable[[], object]) -> str:
    """ "accepted" or "refused"; lets everything else through. Raises `AssertionError` for a message of several lines."""
    try:
        work()
        return "accepted"
    except AutoformerError as error:
        message = str(error)
    assert "\n" not in message, f"a message of several lines: {message!r}"
    assert len(message) < 2000, f"a message of {len(message)} letters: {message[:200]!r}"
    return "refused"


def said(*words: object) -> str:
    """A command of the toolchain."""
    answer = command(*words)
    if answer.code:
        assert (answer.code == 3 and answer.out) or answer.error, answer.err  # 3: the check found what fails
    return "refused" if answer.code else "accepted"


def told(folder: Path, *words: str) -> str:
    """The program of a bundle."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = board.main(["--bundle", str(folder), *words])
    assert code in (0, 1, 2), code
    lines = err.getvalue().splitlines()
    assert (len(lines) == 1 and lines[0].startswith("error: ")) if code == 2 else not lines, err.getvalue()
    return "refused" if code else "accepted"


def used(predictor: Predictor) -> None:
    """One call, with an image as the file says it wants it."""
    size, channels = (predictor.preprocessing.input_size, predictor.preprocessing.in_chans) if predictor.preprocessing else (8, 1)
    with predictor:
        predictor(np.zeros((1, channels, min(size, 256), min(size, 256)), np.float32))


def timed(path: Path) -> None:
    with OnnxRuntimeBackend(path, batch=1, threads=1, precision=onnx_precision(path)) as backend:
        backend.run()


def try_onnx(originals: Path, place: Path, rng: random.Random) -> Iterator[str]:
    path = place / "model.onnx"
    sources = sorted(originals.glob("*.onnx"))
    path.write_bytes(damaged_onnx(rng.choice(sources).read_bytes(), rng))
    held = (originals / BESIDE).read_bytes()
    (place / BESIDE).write_bytes(held if rng.random() < 0.8 else damaged_bytes(held, rng))
    before = path.read_bytes()
    yield attempt(lambda: OnnxGraph.open(path))
    yield attempt(lambda: used(open_predictor(path)))
    yield attempt(lambda: OnnxModel(path, threads=1)(np.zeros((2, 1, 8, 8), np.float32)))
    yield attempt(lambda: check_tensorrt(path))
    yield attempt(lambda: timed(path))
    yield said("predict", path, originals / "image.png")
    yield said("check", path, "--target", "tensorrt")
    if rng.random() < 0.1:
        yield said("evaluate", path, "--data", originals / "folder", "--quiet")
        yield said("profile", "run", path, "--seconds", "0.01", "--quiet")
        yield said("describe", path)
    if rng.random() < 0.3:
        shutil.copytree(originals / "bundle", place / "bundle")
        shutil.copy(path, place / "bundle" / "model.fp32.onnx")
        shutil.copy(place / BESIDE, place / "bundle")
        _sign(place / "bundle")
        yield told(place / "bundle", "verify", "--seconds", "0.01")
    assert path.read_bytes() == before, "the file was changed"


def try_bundle(originals: Path, place: Path, rng: random.Random) -> Iterator[str]:
    root = originals / "bundle"
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    image = str(originals / "image.png")
    if rng.random() < 0.5:
        archive = place / "bundle.zip"
        archive.write_bytes(damaged_archive(files, rng, LIKELY))
        yield attempt(lambda: used(open_predictor(archive)))
        outcome = attempt(lambda: unpack_bundle(archive, place / "out"))
        assert (place / "out").exists() == (outcome == "accepted"), "half of an archive was left"
        yield outcome
        if outcome == "refused":
            return
        folder = next((place / "out").rglob("bundle.json")).parent
    else:
        folder = place / "bundle"
        for name, content in damaged_files(files, rng, LIKELY).items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    if rng.random() < 0.5:
        _sign(folder)
    yield attempt(lambda: used(open_predictor(folder)))
    yield told(folder, "predict", image)
    yield told(folder, "verify", "--seconds", "0.01")
    if rng.random() < 0.1:
        yield told(folder, "bench", "--seconds", "0.01")
    yield said("predict", folder, image)


def _sign(folder: Path) -> None:
    """Writes the digests of what is there into bundle.json and manifest.json where they can be read, as an attacker would."""
    with contextlib.suppress(ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest.pop(SEAL, None)
        for entry in manifest["artefacts"]:
            entry["sha256"] = sha256_of(folder / entry["file"])
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with contextlib.suppress(ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
        record = json.loads((folder / "bundle.json").read_text())
        record.pop(SEAL, None)
        record["files"] = {
            path.relative_to(folder).as_posix(): sha256_of(path)
            for path in folder.rglob("*")
            if path.is_file() and path.name != "bundle.json"
        }
        (folder / "bundle.json").write_text(json.dumps(record))


def try_image(originals: Path, place: Path, rng: random.Random) -> Iterator[str]:
    name, content = damaged_image(every_kind(), rng)
    path = folder_with(content, place, rng)
    # A damaged header may ask for 170 million pixels, which take seconds in each reading: refused from 32 million on here.
    with warnings.catch_warnings(), patch.object(Image, "MAX_IMAGE_PIXELS", 1 << 24):
        warnings.simplefilter("error")  # Pillow remarks on damaged images, and nobody should see it
        for work in readings(path, rng):
            yield attempt(work)
    if rng.random() < 0.05:
        yield said("predict", rng.choice(sorted(originals.glob("*.onnx"))), path)
        yield told(originals / "bundle", "predict", str(path))
        yield said("data", "check", path.parents[1], "--quiet", "--set", "data.unreadable=skip")
    assert path.read_bytes() == content, f"{name} was changed"


SUBJECTS: dict[str, Callable[[Path, Path, random.Random], Iterator[str]]] = {
    "onnx": try_onnx, "bundle": try_bundle, "image": try_image,
    "recipe": lambda originals, place, rng: try_recipe(originals, place, rng, attempt, said),
    "manifest": lambda originals, place, rng: try_manifest(originals, place, rng, attempt, said),
}  # fmt: skip


def main(subject: str, first: int, count: int, originals: Path, place: Path) -> None:
    """Mutations `first` to `first + count`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")  # Pillow remarks on damaged images
    typer.main.get_command = functools.cache(typer.main.get_command)  # making the commands takes longer than running them
    for number in range(first, first + count):
        print(f"begin {number}", flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        shutil.rmtree(place, ignore_errors=True)
        (place / "inner").mkdir(parents=True)
        answer: dict[str, Any] = {"number": number, "outcomes": []}
        began = time.process_time()
        try:
            for outcome in SUBJECTS[subject](originals, place / "inner", random.Random(f"{subject} {number}")):
                answer["outcomes"].append(outcome)
            assert [path.name for path in place.iterdir()] == ["inner"], "a file was written outside of its folder"
        except BaseException:
            answer["failure"] = traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        answer["seconds"] = round(time.process_time() - began, 2)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
