"""What ONNX Runtime, onnx and protobuf say against a file, as a line for users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from autoformer.errors import CheckpointError
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.onnx_reading import read_model
from autoformer.export.graphs.refusals import reason_of, refusal
from autoformer.profiling.backends.of_artefacts import onnx_precision
from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend
from tests.support.checked_graphs import graph, node

SIGNATURE = (
    "[ONNXRuntimeError] : 1 : FAIL : Load model from a.onnx failed:/onnxruntime_src/onnxruntime/core/graph/model.cc:149 "
    "onnxruntime::Model::Model(onnx::ModelProto&&, const std::unordered_map<std::string, int (*)(int)>&, const ModelOptions&) "
)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (SIGNATURE + "Node (a) has no kernel", "Node (a) has no kernel"),
        (SIGNATURE + SIGNATURE + "twice", "twice"),
        ("/src/x.cc:20 auto a::<lambda(const X&)>::operator()(int) const [with T = float] sizes 3 and 4", "sizes 3 and 4"),
        ("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Failed to find kernel for com.microsoft.BiasGelu(1)",
         "Failed to find kernel for com.microsoft.BiasGelu(1)"),
        ("two\n  lines", "two lines"),
        ("/src/x.cc:20 broken(off", "/src/x.cc:20 broken(off"),
    ],
)  # fmt: skip
def test_signatures_go_and_reasons_stay(said: str, reason: str) -> None:
    assert reason_of(RuntimeError(said)) == reason


def test_of_a_long_reason_the_end_is_kept_too() -> None:
    found = reason_of("why: " + "word " * 500 + "the reason")
    assert found.startswith("why: word")
    assert found.endswith("the reason")
    assert len(found) < 310


def classifier(path: Path, ir_version: int = 8, opset: int = 17) -> Path:
    weights = {"w": np.ones((192, 4), np.float32)}
    model = graph([node("Flatten", "x", "f"), node("MatMul", "f w")], weights, shape=["batch", 3, 8, 8], opset=opset)
    model.ir_version = ir_version
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4]))
    path.write_bytes(model.SerializeToString())
    return path


def test_a_newer_file_is_called_newer_by_all_that_read_one(tmp_path: Path) -> None:
    path = classifier(tmp_path / "new.onnx", ir_version=99)
    for read, reader in ((OnnxModel, "ONNX Runtime"), (OnnxRuntimeBackend, "ONNX Runtime"), (read_model, "onnx")):
        with pytest.raises(CheckpointError, match=rf"is of IR version 99, newer than {reader} [\d.]+ reads \(up to \d+\)"):
            read(path)
    path = classifier(tmp_path / "opset.onnx", opset=99)
    with pytest.raises(CheckpointError, match=r"is of opset 99, newer than ONNX Runtime [\d.]+ reads \(up to \d+\)"):
        OnnxModel(path)


def test_a_cut_file_is_called_truncated_and_one_with_a_foreign_operator_is_not(tmp_path: Path) -> None:
    whole = classifier(tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[:-20])
    for read in (OnnxModel, OnnxRuntimeBackend, read_model, onnx_precision):
        with pytest.raises(CheckpointError, match="is truncated or not an ONNX file"):
            read(tmp_path / "cut.onnx")
    (tmp_path / "foreign.onnx").write_bytes(whole.replace(b"Flatten", b"Flutter"))
    for read in (OnnxModel, OnnxRuntimeBackend, read_model):
        with pytest.raises(CheckpointError, match="No Op registered for Flutter") as caught:
            read(tmp_path / "foreign.onnx")
        assert "truncated" not in str(caught.value)


def test_a_file_larger_than_protobuf_reads_is_called_so(tmp_path: Path) -> None:
    with (path := tmp_path / "large.onnx").open("wb") as sparse:
        sparse.truncate(3 << 30)
    with pytest.raises(CheckpointError, match="larger than the 2 GB that one ONNX file may have"):
        read_model(path)
    assert "2 GB" in str(refusal(path, "Protobuf parsing failed.", "x", otherwise="y"))
