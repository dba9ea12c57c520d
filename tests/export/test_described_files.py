"""A file that a manifest beside it describes is that file, whatever opens it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from autoformer.errors import CheckpointError
from autoformer.export.bundle import write_bundle
from autoformer.export.expected import ExpectedResults
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.manifest import check_described
from autoformer.export.predictor import open_predictor
from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend
from tests.support.source_tree import ROOT

OLD = ROOT / "tests" / "data" / "written_by_0_1" / "uint8"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export folder in whose ONNX file one bit of a weight is another."""
    folder = Path(shutil.copytree(OLD, tmp_path / "export"))
    path = folder / "model.fp32.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return folder


@pytest.mark.parametrize("opened", [OnnxModel, OnnxGraph.open, OnnxRuntimeBackend, lambda path: open_predictor(path)])
def test_a_damaged_file_is_refused_by_whatever_opens_it(opened: object, export: Path) -> None:
    path = export / "model.fp32.onnx"
    with pytest.raises(CheckpointError, match=r"model.fp32.onnx is not the file that the manifest describes .*; export it again"):
        opened(path)  # type: ignore[operator]
    shutil.copy(OLD / path.name, path)
    opened(path)  # type: ignore[operator]


def test_a_manifest_of_something_else_describes_nothing(export: Path) -> None:
    (export / "manifest.json").write_text(json.dumps({"name": "a web page", "icons": []}))
    check_described(export / "model.fp32.onnx")
    check_described(OLD / "other.onnx")


def test_damaged_names_of_modules_do_not_get_into_a_bundle(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(OLD, tmp_path / "export"))
    scopes = folder / "model.fp32.scopes.json"
    scopes.write_text(scopes.read_text()[:-9])
    expected, pixels = ExpectedResults(name="a", labels=(0,)), np.zeros((1, 8, 8, 1), np.uint8)
    with pytest.raises(CheckpointError, match=r"model.fp32.scopes.json cannot be read as JSON"):
        write_bundle(folder, tmp_path / "bundle", expected, pixels=pixels, program=b"")
    assert not (tmp_path / "bundle").exists()
