"""Fuzzing: thousands of damaged files in processes that may die of them.

    python -m tests.support.fuzzing --subject onnx bundle image recipe manifest --count 5000

prints what went wrong, each with the number that repeats it
(`python -m tests.support.fuzz_worker SUBJECT NUMBER 1 …`), and a summary.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from PIL import Image

from autoformer.data.preprocessing import Preprocessing
from autoformer.export.bundle import write_bundle
from autoformer.export.expected import ExpectedResults
from autoformer.export.graphs.model_metadata import ModelMetadata
from autoformer.export.manifest import Artefact, Manifest, sha256_of
from autoformer.export.program import board_program
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace
from tests.support.exporting import write_export
from tests.support.foreign_models import write_models

SUBJECTS = ("onnx", "bundle", "image", "recipe", "manifest")
CLASSES = ("ape", "bee", "cat")
PREPROCESSING = Preprocessing(8, 1, (0.3,), (0.4,))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)


@dataclass
class Findings:
    """What a series of mutations came to."""

    mutations: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)  # of all that was attempted
    failures: dict[int, str] = field(default_factory=dict)  # by number: a traceback, or how the process ended
    slowest_s: float = 0.0  # of the processor, for one mutation


def small_model(path: Path, preprocessing: Preprocessing = PREPROCESSING) -> Path:
    """One product of the 64 pixels with weights, with our properties; where it takes uint8, of pixels from 0 to 1."""
    kind, most = {"float32": (TensorProto.FLOAT, 1), "uint8": (TensorProto.UINT8, 1 / 255)}[preprocessing.input_type]
    images = helper.make_tensor_value_info("images", kind, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [64, 3], np.linspace(-most, most, 192, dtype=np.float32).tolist())
    nodes = [
        helper.make_node("Flatten", ["images"], ["pixels"]),
        helper.make_node("Cast", ["pixels"], ["flat"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], [logits], [weight]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    about = ModelMetadata(preprocessing=preprocessing, classes=CLASSES, precision="fp32")
    helper.set_model_props(model, about.to_properties())
    onnx.save(model, path)
    return path


def make_originals(folder: Path, *, exported: bool) -> Path:
    """Whole files to damage: ONNX files (with those of a real export where `exported`), a bundle, images."""
    folder.mkdir()
    small = small_model(folder / "small.onnx")
    write_models(folder, ModelMetadata(preprocessing=PREPROCESSING, classes=CLASSES, precision="fp32"))
    if exported:
        torch.manual_seed(0)
        space = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=3)
        write_export(
            Subnet.from_space(space, space.smallest).eval(), folder / "export",
            images=PREPROCESSING.normalise(np.random.default_rng(1).integers(0, 256, (96, 8, 8, 1), dtype=np.uint8)),
            preprocessing=PREPROCESSING, classes=CLASSES, formats=("onnx",), max_disagreement=1.0, max_class_loss=1.0,
        )  # fmt: skip
        for path in (folder / "export").glob("*.onnx"):
            (folder / path.name).write_bytes(path.read_bytes())
    source = folder / "source"
    source.mkdir()
    (source / "model.fp32.onnx").write_bytes(small.read_bytes())
    artefact = Artefact(
        format="onnx", precision="fp32", status="exported", reason="made here", file="model.fp32.onnx", sha256=sha256_of(small),
        bytes=small.stat().st_size, input_name="images", input_shape=("batch", 1, 8, 8), output_name="logits",
    )  # fmt: skip
    Manifest((artefact,), CLASSES, PREPROCESSING, params=192).save(source)
    expected = ExpectedResults(name="small", budget={"max_params": 1000.0}, labels=(0, 1, 2, 0, 1, 2))
    write_bundle(source, folder / "bundle", expected, pixels=PIXELS, program=board_program("autoformer.cli.board.bundle_program"))
    photo = Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    photo.save(folder / "image.png")
    for index, name in enumerate(CLASSES):
        (folder / "folder" / name).mkdir(parents=True)
        for number in range(8):
            shade = Image.fromarray(np.full((8, 8), 40 * index + number, np.uint8))
            shade.save(folder / "folder" / name / f"{number}.png")
    return folder


def fuzz(subject: str, first: int, count: int, originals: Path) -> Findings:
    """Runs mutations `first` to `first + count`; a process that dies is recorded and replaced."""
    found, number, end = Findings(), first, first + count
    with tempfile.TemporaryDirectory(prefix="autoformer-fuzz-") as place:
        while number < end:
            words = [subject, str(number), str(end - number), str(originals), str(Path(place) / "one")]
            done = subprocess.run(
                [sys.executable, "-m", "tests.support.fuzz_worker", *words], capture_output=True, text=True, errors="replace"
            )
            started, begun = False, None
            for line in done.stdout.splitlines():
                if line.startswith("begin "):
                    started, begun = True, int(line.removeprefix("begin "))
                elif line.startswith("{"):
                    answer = json.loads(line)
                    found.mutations += 1
                    found.outcomes.update(answer["outcomes"])
                    found.slowest_s = max(found.slowest_s, answer.get("seconds", 0.0))
                    if "failure" in answer:
                        found.failures[answer["number"]] = answer["failure"]
                    begun = None
            if not started:
                raise RuntimeError(f"the worker did not start: {done.stderr[-2000:]}")
            if begun is None:  # it came to its end
                break
            found.mutations += 1
            found.outcomes["died"] += 1
            found.failures[begun] = f"the process ended with {done.returncode}: {done.stderr[-1500:]}"
            number = begun + 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--subject", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="mutations of each subject")
    parser.add_argument("--shown", type=int, default=10, help="failures printed in full")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autoformer-originals-") as folder:
        originals = make_originals(Path(folder) / "originals", exported=True)
        for subject in options.subject:
            found = fuzz(subject, options.first, options.count, originals)
            for number, failure in list(found.failures.items())[: options.shown]:
                print(f"--- {subject} {number}\n{failure}")
            kinds = Counter(failure.strip().splitlines()[-1][:150] for failure in found.failures.values())
            print(
                f"{subject}: {found.mutations} mutations, {dict(found.outcomes)}, {len(found.failures)} failures {dict(kinds)}, "
                f"slowest {found.slowest_s:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
