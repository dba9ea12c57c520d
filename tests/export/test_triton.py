"""What a bundle holds for NVIDIA's Triton server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

from autoformer.data.preprocessing import Preprocessing
from autoformer.export.bundle import write_bundle
from autoformer.export.expected import ExpectedResults
from autoformer.export.manifest import Manifest, sha256_of
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace
from tests.support.exporting import write_export

SPACE = SearchSpace.preset("micro", image_size=16, in_chans=3, num_classes=4)
PREPROCESSING = Preprocessing(image_size=16, in_chans=3, mean=(0.5,) * 3, std=(0.2,) * 3)


def test_the_repository_serves_the_file_that_the_run_says_to_ship(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pixels, place = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8), tmp_path / "export"
    write_export(
        Subnet.from_space(SPACE, SPACE.smallest).eval(), place, images=PREPROCESSING.normalise(pixels), labels=np.arange(8) % 4,
        preprocessing=PREPROCESSING, classes=("a", "b", "c", "d"), precisions=("fp32",), formats=("onnx",),
    )  # fmt: skip
    manifest = Manifest.load(place)
    exact = manifest.find("onnx", "fp32")
    assert exact is not None
    model = onnx.load(place / "model.fp32.onnx")
    model.doc_string = "another file"
    onnx.save(model, place / "model.int8.onnx")
    other = replace(
        exact, precision="int8", file="model.int8.onnx", sha256=sha256_of(place / "model.int8.onnx"),
        bytes=(place / "model.int8.onnx").stat().st_size,
    )  # fmt: skip
    replace(manifest, artefacts=(exact, other)).save(place)
    for ship, served in (("model.int8.onnx", "model.int8.onnx"), (None, "model.fp32.onnx")):
        expected = ExpectedResults(name="animals", labels=tuple(range(4)) * 2, ship=ship)
        out = write_bundle(place, tmp_path / str(ship), expected, pixels=pixels, program=b"a program")
        assert (out / "triton" / "animals" / "1" / "model.onnx").read_bytes() == (place / served).read_bytes()
