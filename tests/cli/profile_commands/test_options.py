"""Options of `autoformer profile` that would change nothing are refused, and what is asked for is what is measured."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoformer.cli.board.program import whole
from autoformer.cli.chain.helpers import processes
from autoformer.errors import ExportError, RecipeError
from autoformer.export.engines.artefact import read_batches
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace
from tests.support.commands import command
from tests.support.layer_profiles import graph


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--backend", "torch-cpu"), "--backend has no effect with --from"),
        (("--networks", 12), "--networks has no effect with --from"),
        (("--threads", 2), "--threads has no effect with --from"),
    ],
)
def test_a_table_of_a_kit_refuses_what_only_a_measurement_follows(words: tuple[object, ...], said: str, tmp_path: Path) -> None:
    answer = command("profile", "table", "--from", tmp_path / "result.json", "--out", tmp_path / "t.json", *words)
    assert said in answer.error


def test_a_table_that_cannot_be_measured_here_leaves_nothing_behind(tmp_path: Path) -> None:
    base = ("profile", "table", "--space", "micro", "--out", tmp_path / "t.json")
    assert "measured here in fp32, asked for 'fp16'; others come from a kit" in command(*base, "--precision", "fp16").error
    assert "no table for backend 'abacus'" in command(*base, "--backend", "abacus").error
    assert list(tmp_path.iterdir()) == []


def test_the_sizes_of_a_supernet_are_its_own(tmp_path: Path) -> None:
    for name in ("table", "kit"):
        answer = command("profile", name, "--supernet", tmp_path, "--image-size", 32, "--out", tmp_path / "out")
        assert "--image-size has no effect with --supernet" in answer.error


def test_options_of_layers_that_were_timed_already_are_refused(tmp_path: Path) -> None:
    listed = tmp_path / "engine.json"
    listed.write_text('[{"count": 1}, {"name": "a", "timeMs": 1, "averageMs": 1, "percentage": 100}]')
    assert command("profile", "layers", listed).code == 0
    for option in ("--batch", "--threads", "--runs"):
        assert (
            f"{option} has no effect on times that were measured already" in command("profile", "layers", listed, option, 2).error
        )
    (tmp_path / "net.plan").write_bytes(b"plan")
    assert "--threads has no effect on an engine" in command("profile", "layers", tmp_path / "net.plan", "--threads", 2).error


def test_layers_of_a_file_with_a_fixed_batch_are_profiled_at_that_batch(tmp_path: Path) -> None:
    model = graph()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "fixed.onnx")
    answer = command("profile", "layers", tmp_path / "fixed.onnx", "--runs", 2, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["batch"] == 3


def test_spinning_without_onnx_runtime_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoformer.data.preprocessing import Preprocessing
    from autoformer.networks.folders import save_subnet

    space = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=2)
    preprocessing = Preprocessing(image_size=8, in_chans=1, mean=(0.5,), std=(0.5,))
    network = Subnet.from_space(space, space.smallest)
    save_subnet(network, tmp_path / "net", preprocessing=preprocessing, classes=("a", "b"), record={})
    answer = command("profile", "run", tmp_path / "net", "--spinning", "--seconds", 0.01)
    assert "leave --spinning out" in answer.error


def test_a_backend_that_runs_nothing_of_this_names_those_that_do(tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "model.onnx")
    error = command("profile", "run", tmp_path / "model.onnx", "--backend", "torch-cpu").error
    assert "nothing of this runs on torch-cpu; it runs on onnxruntime-cpu, onnxruntime-cuda" in error


def test_numbers_of_thousands_of_digits_are_one_line(tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "model.onnx")
    many = "9" * 5000
    assert "write 1,2,4,8" in command("profile", "run", tmp_path / "model.onnx", "--batches", many).error
    words = ("profile", "table", "--space", "micro", "--out", tmp_path / "t.json", "--networks", many)
    assert "takes auto or a whole number from 4" in command(*words).error


def test_a_file_that_takes_no_batch_has_no_latency_of_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scalar = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("x", "y")]
    made = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", scalar[:1], scalar[1:])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "scalar.onnx")
    assert "has no input with a first dimension" in command("profile", "run", tmp_path / "scalar.onnx", "--batch", 8).error
    sizes: dict[str, list[str | int]] = {"x": ["batch", 4], "y": ["rows", "columns"]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
    shape = numpy_helper.from_array(np.array([5, 7], np.int64), "shape")  # which four values a batch never fill
    made = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y"])], "g", values[:1], values[1:], [shape])
    failing = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(failing, tmp_path / "failing.onnx")
    assert "fails when it runs" in command("profile", "run", tmp_path / "failing.onnx").error
    assert capfd.readouterr().err == ""  # the runtime says nothing of its own beside the one line


def test_a_file_without_names_of_modules_claims_none(tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "model.onnx")
    found = command("profile", "layers", tmp_path / "model.onnx", "--runs", 2, "--json").json
    assert {layer["scope"] for layer in found["layers"]} == {""}
    assert found["joined_share"] == 0.0


@pytest.mark.parametrize(
    "listed",
    [
        '[{"count": -3}, {"name": "x", "timeMs": 1, "averageMs": 1}]',
        '[{"count": 2.5}, {"name": "x", "timeMs": 1, "averageMs": 1}]',
        '[{"count": 3}, {"name": "x", "timeMs": NaN, "averageMs": 1}]',
        '[{"count": 3}, {"name": "x", "timeMs": 1, "averageMs": 1, "medianMs": -1}]',
        "[]",
    ],
)
def test_a_profile_of_trtexec_with_impossible_numbers_is_refused(listed: str, tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text(listed)
    assert "holds no times of layers" in command("profile", "layers", tmp_path / "engine.json").error


def test_a_kit_of_an_unknown_opset_leaves_nothing_behind(tmp_path: Path) -> None:
    answer = command("profile", "kit", "--space", "micro", "--networks", 4, "--opset", 3, "--out", tmp_path / "kit")
    assert "no kit in opset 3; known are 17 to 25" in answer.error
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_thousands_of_digits_are_refused_in_one_line(tmp_path: Path) -> None:
    """Python itself reads no whole number of more than 4300 digits."""
    many = "9" * 5000
    assert "is not a list of numbers" in command("profile", "run", "a.onnx", "--batches", many).error
    assert (
        "--networks takes auto or a whole number"
        in command("profile", "table", "--space", "micro", "--networks", many, "--out", tmp_path / "t.json").error
    )
    with pytest.raises(RecipeError, match="--workers takes a number from 1 or auto"):
        processes(many)
    with pytest.raises(ExportError, match="cannot be read; expected one number like 8"):
        read_batches(many)
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1"):
        whole(many)
