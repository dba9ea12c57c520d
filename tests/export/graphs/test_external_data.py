"""ONNX files that keep weights elsewhere: inside their folder or refused, before a runtime opens anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoformer.errors import AutoformerError, CheckpointError
from autoformer.export.graphs.external_data import external_locations
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.graphs.tensorrt_rules import check_tensorrt
from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend

IMAGES = np.ones((2, 1, 8, 8), np.float32)
WEIGHT = np.ones((64, 3), np.float32)


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[64, 3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(WEIGHT.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def write(path: Path, weight: TensorProto, *, as_constant: bool = False, branch: TensorProto | None = None) -> Path:
    """64 pixels times `weight`; `branch` lies in a graph inside a node that never runs."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["logits"])]
    if as_constant:
        nodes.insert(0, helper.make_node("Constant", [], ["weight"], value=weight))
    if branch is not None:
        value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [64, 3])
        inner = helper.make_graph([helper.make_node("Constant", [], ["inner"], value=branch)], "inner", [], [value])
        nodes.append(helper.make_node("If", ["never"], ["unused"], then_branch=inner, else_branch=inner))
    stored = [*([] if as_constant else [weight]), numpy_helper.from_array(np.asarray(False), "never")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], [logits], stored), opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    )
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_that_holds_everything_names_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", numpy_helper.from_array(WEIGHT, "weight"))
    assert list(external_locations(path.read_bytes())) == []
    np.testing.assert_array_equal(OnnxModel(path)(IMAGES), np.full((2, 3), 64, np.float32))


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(WEIGHT.tobytes())
    path = write(tmp_path / "m.onnx", external("m.bin"))
    assert list(external_locations(path.read_bytes())) == ["m.bin"]
    np.testing.assert_array_equal(OnnxModel(path)(IMAGES), np.full((2, 3), 64, np.float32))


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("lost.bin", "'lost.bin', which is missing beside it"),
        ("../secret.bin", "not inside its folder; refused"),
        ("/etc/hostname", "not inside its folder; refused"),
        ("C:\\secret.bin", "not inside its folder; refused"),
        ("link.bin", "not inside its folder; refused"),
        ("", "not inside its folder; refused"),
    ],
)
def test_weights_that_are_missing_or_elsewhere_are_refused_before_they_are_read(
    tmp_path: Path, place: str, location: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "secret.bin")
    whole, away = numpy_helper.from_array(WEIGHT, "weight"), external(location)
    path = {
        "initializer": lambda: write(tmp_path / "in" / "m.onnx", away),
        "constant": lambda: write(tmp_path / "in" / "m.onnx", away, as_constant=True),
        "branch": lambda: write(tmp_path / "in" / "m.onnx", whole, branch=away),
    }[place]()
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: pytest.fail("a runtime opened the file"))
    for read in (OnnxModel, OnnxRuntimeBackend):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"keeps weights in other files|not an ONNX file"):
        OnnxGraph.open(path)


@pytest.mark.parametrize(
    "content", [b"\x3a\xff", b"\x3a\x05\x0a", b"\xff" * 12, b"\x3b", b"\x0d\x00", b"\x3a\x04\x2a\x02\x6a\x05"]
)
def test_what_is_cut_off_or_no_message_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each of these bytes has its own reason
        list(external_locations(content))
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"truncated or not an ONNX file|expected an ONNX file"):
        OnnxModel(tmp_path / "m.onnx")


def test_a_graph_that_fails_when_it_runs_or_gives_another_shape_is_one_line(tmp_path: Path) -> None:
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "classes"])
    for sizes, words in (([5, 7], "cannot be run on images"), ([1, -1], "gives [1, 128] for 2 images, expected [2, classes]")):
        graph = helper.make_graph(
            [helper.make_node("Reshape", ["images", "sizes"], ["logits"])], "g", [images], [logits],
            [numpy_helper.from_array(np.asarray(sizes, np.int64), "sizes")],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(AutoformerError) as caught:
            OnnxModel(tmp_path / "m.onnx")(IMAGES)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [b"images", b"logits"])
def test_names_that_are_no_text_are_one_line(tmp_path: Path, name: bytes) -> None:
    path = write(tmp_path / "m.onnx", numpy_helper.from_array(WEIGHT, "weight"))
    path.write_bytes(path.read_bytes().replace(name, b"\xff" * 6))
    for read in (OnnxModel, OnnxRuntimeBackend):
        with pytest.raises(CheckpointError, match=r"m\.onnx") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_check_reads_weights_beside_the_file_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(WEIGHT.tobytes())
    beside = check_tensorrt(write(tmp_path / "m.onnx", external("m.bin")), ("10.3",))
    whole = check_tensorrt(write(tmp_path / "whole.onnx", numpy_helper.from_array(WEIGHT, "weight")), ("10.3",))
    assert beside == whole
    for location in ("../m.bin", "gone.bin"):
        with pytest.raises(CheckpointError, match=r"not inside its folder|missing beside it"):
            check_tensorrt(write(tmp_path / "away.onnx", external(location)), ("10.3",))
