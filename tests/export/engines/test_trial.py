"""Strange files in the real parser and builder, in a process of its own: what it says, and what happens when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

from autoformer.errors import CheckpointError, MissingPackageError
from autoformer.export.engines.builder_words import BuilderWords, layers_told
from autoformer.export.engines.tensorrt_versions import TENSORRT_RTX
from autoformer.export.engines.trial import Limits, Trial, TrialProcess
from autoformer.export.graphs.onnx_graph import OnnxGraph
from tests.support.engines import small_subnet, write_graph
from tests.support.real_tensorrt import needs_real_tensorrt

ADA = ("8.9",)


@pytest.fixture(scope="module")
def attempt() -> Iterator[TrialProcess]:
    needs_real_tensorrt()
    with TrialProcess(TENSORRT_RTX) as found:
        yield found


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return OnnxGraph.from_network(small_subnet(), tmp_path_factory.mktemp("trial") / "model.onnx").path


def test_a_network_is_built_and_its_parts_are_named(attempt: TrialProcess, network: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = attempt(network, build=True, gpus=ADA, on_progress=lambda *words: told.append(words))
    assert (found.error, found.crashed, found.gpus) == (None, False, "sm89")
    assert found.product.startswith("TensorRT-RTX 1.")
    assert len(told) > 10
    assert found.plan_bytes is not None
    assert found.scratch_bytes is not None
    assert found.plan_bytes > 1000
    layers = found.layers(network)
    softmaxes = [node for layer in layers.layers for node in layer.onnx_nodes if "oftmax" in node]
    assert softmaxes, "the one block's attention is somewhere"
    assert layers.int8.yes == ()
    facts = found.facts(network, sorted(set(softmaxes)))
    assert "of 1 blocks" in facts["attention recognised"]
    assert facts["built"].endswith("MB")


def test_what_is_refused_is_said_and_the_process_goes_on(attempt: TrialProcess, network: Path, tmp_path: Path) -> None:
    nodes = (helper.make_node("Unique", ["images"], ["logits"], name="odd"),)
    refused = attempt(write_graph(tmp_path / "odd.onnx", nodes=nodes), build=True)
    assert refused.step == "parsing"
    ends = [helper.make_tensor_value_info(name, TensorProto.STRING, ["n", 3]) for name in ("x", "y")]
    words = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    save(helper.make_model(words, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "text.onnx")
    assert "text.onnx: the file: Assertion failed" in str(attempt(tmp_path / "text.onnx", build=False).error), "it is of no node"
    assert "operator Unique of node odd: unsupported node" in str(refused.error)
    assert refused.facts(tmp_path / "odd.onnx", []) == {"parsing": refused.error}
    process = attempt._process
    assert attempt(network, build=False).error is None
    assert attempt._process is process
    (tmp_path / "none.onnx").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not an ONNX file"):
        attempt(tmp_path / "none.onnx", build=False)


@pytest.mark.parametrize("sign", [signal.SIGSEGV, signal.SIGKILL])
def test_a_library_that_dies_is_one_line_and_the_next_file_has_a_new_process(sign: int, network: Path) -> None:
    needs_real_tensorrt()
    with TrialProcess(TENSORRT_RTX) as attempt:

        def die(phase: str, done: int, steps: int) -> None:
            assert attempt._process is not None
            os.kill(attempt._process.pid, sign)

        found = attempt(network, build=True, gpus=ADA, on_progress=die)
        assert found.crashed
        assert f"was ended by {signal.Signals(sign).name}" in str(found.error)
        assert "\n" not in str(found.error)
        assert attempt(network, build=False).error is None


def test_limits_of_time_and_memory_end_a_trial(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_real_tensorrt()
    with TrialProcess(TENSORRT_RTX, Limits(seconds=0.0)) as attempt:
        found = attempt(network, build=True, gpus=ADA)
        assert (found.crashed, found.error) == (True, f"{attempt.title} has no answer: it was stopped after 0 s")
    with TrialProcess(TENSORRT_RTX, Limits(memory_mib=1)) as attempt:
        found = attempt(network, build=True, gpus=ADA)
        assert found.crashed
        assert "MiB of memory, of 1 that it may take" in str(found.error)


def test_an_interrupted_trial_leaves_no_process(network: Path) -> None:
    needs_real_tensorrt()
    pids: list[int] = []
    with TrialProcess(TENSORRT_RTX) as attempt:

        def stop(phase: str, done: int, steps: int) -> None:
            assert attempt._process is not None
            pids.append(attempt._process.pid)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            attempt(network, build=True, gpus=ADA, on_progress=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


HELD = """
import os, signal, sys, time
from pathlib import Path
from autoformer.export.engines.tensorrt_versions import TENSORRT_RTX
from autoformer.export.engines.trial import TrialProcess

with TrialProcess(TENSORRT_RTX) as attempt:
    def hold(phase, done, steps):
        os.kill(attempt._process.pid, signal.SIGSTOP)
        print(attempt._process.pid, flush=True)
        time.sleep(60)

    attempt(Path(sys.argv[1]), build=True, gpus=("8.9",), on_progress=hold)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end it")
def test_a_trial_ends_with_a_command_that_is_killed(network: Path) -> None:
    needs_real_tensorrt()
    with subprocess.Popen([sys.executable, "-c", HELD, str(network)], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.kill()
    until = time.monotonic() + 10
    while time.monotonic() < until and _is_alive(pid):
        time.sleep(0.05)
    alive = _is_alive(pid)
    if alive:
        os.kill(pid, signal.SIGKILL)
    assert not alive


def _is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_product_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(MissingPackageError, match="TensorRT-RTX"):
        TrialProcess(TENSORRT_RTX)


def test_the_lines_of_a_builder_are_read_and_others_passed_over(tmp_path: Path) -> None:
    words = BuilderWords()
    for line in (
        "Found node_softmax_2 to be part of self-attention pattern.",
        "ForeignNode {ForeignNode[a...b]} metadata: [ONNX Layer: a]",
        "Max Scratch Memory: 8192 bytes", "Total Weights Memory: 12 bytes", "something else", "",
        "Layers:\nName: k1, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [-1,3], Strides: [3,1], StrideOrder: [1,0], "
        "Datatype: Half, Format: (Linear) Row major linear format }], Constants: [], Outputs: [], TacticName: t, StreamId: 0, "
        "Metadata: [ONNX Layer: MatMul_1]\nnot a layer\n",
    ):  # fmt: skip
        words.hear(line)
    found = words.to_dict()
    assert (found["attention"], found["regions"]) == (["node_softmax_2"], ["{ForeignNode[a...b]}"])
    assert found["memory"] == {"Max Scratch": 8192, "Total Weights": 12}
    (layer,) = layers_told(found["layers"], write_graph(tmp_path / "g.onnx")).layers
    assert (layer.name, layer.type, layer.precision, layer.onnx_nodes) == ("k1", "kgen", "fp16", ("MatMul_1",))
    assert layer.inputs[0].shape == (-1, 3)
    silent = Trial(product="TensorRT 10.3.0", gpus="", seconds=1.0, plan_bytes=2_000_000)  # of a version that says nothing
    assert silent.facts(tmp_path / "g.onnx", ["s"]) == {
        "built": "in 1.0 s, 2 MB", "memory while it runs": "not said", "attention recognised": "0 of 1 blocks",
    }  # fmt: skip
