"""What each backend accepts, refuses and leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from onnx import TensorProto, helper

from autoformer.errors import CheckpointError, MeasurementError, MissingPackageError
from autoformer.export.engines.tensorrt_versions import TENSORRT, Product
from autoformer.export.graphs.onnx_model import import_onnxruntime
from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend
from autoformer.profiling.backends.tensorrt_backend import TensorRTBackend
from autoformer.profiling.backends.torch_backend import TorchBackend
from autoformer.profiling.measuring.system_files import usable_cores
from tests.support.backends import graph

BOARD_MODULES = (
    "measuring.order_statistics", "measuring.backend", "measuring.measure", "measuring.device", "backends.onnxruntime_backend",
    "backends.tensorrt_backend",
)  # fmt: skip


def test_a_free_batch_is_filled_in_and_a_fixed_one_must_match() -> None:
    with OnnxRuntimeBackend(graph(["batch", 3, 4, 4]), batch=5, threads=1) as backend:
        assert (backend.name, backend.precision, backend.batch, backend.threads) == ("onnxruntime-cpu", "fp32", 5, 1)
        backend.run()
    with pytest.raises(MeasurementError, match="fixed to batch 1, asked for 5"):
        OnnxRuntimeBackend(graph([1, 3, 4, 4]), batch=5)


def test_other_free_dimensions_and_strange_types_are_refused() -> None:
    with pytest.raises(MeasurementError, match="leaves 'height' open"):
        OnnxRuntimeBackend(graph(["batch", 3, "height", 4]))
    with pytest.raises(MeasurementError, match=r"tensor\(uint16\)"):
        OnnxRuntimeBackend(graph_of_strings())


def graph_of_strings() -> bytes:
    """A graph whose input has a type that no image network takes."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", ["images"], ["logits"])]
    kind = TensorProto.UINT16
    made = helper.make_graph(nodes, "strange", [value("images", kind, ["b"])], [value("logits", kind, ["b"])])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def test_integer_inputs_are_filled_with_integers() -> None:
    with OnnxRuntimeBackend(graph(["batch", 4], TensorProto.INT64), batch=2, threads=1) as backend:
        backend.run()


def test_the_file_may_say_its_precision() -> None:
    marked = graph(["batch", 4], metadata={"autoformer.precision": "int8"})
    with OnnxRuntimeBackend(marked) as backend:
        assert backend.precision == "int8"
    with OnnxRuntimeBackend(marked, precision="fp32") as backend:
        assert backend.precision == "fp32"


def test_threads_and_spinning_are_always_stated() -> None:
    with OnnxRuntimeBackend(graph(["batch", 4]), spinning=True) as backend:
        assert backend.threads == usable_cores()
        assert backend.settings == {"spinning": "on"}


def test_missing_and_truncated_files_and_unknown_providers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.onnx"):
        OnnxRuntimeBackend(tmp_path / "absent.onnx")
    (tmp_path / "cut.onnx").write_bytes(graph(["batch", 4])[:-20])
    with pytest.raises(CheckpointError, match=r"cut\.onnx is truncated"):
        OnnxRuntimeBackend(tmp_path / "cut.onnx")
    with pytest.raises(MeasurementError, match="unknown provider 'npu'; known are cpu, cuda"):
        OnnxRuntimeBackend(graph(["batch", 4]), provider="npu")


def test_torch_runs_the_network_and_puts_threads_and_mode_back() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2), torch.nn.Dropout()).train()
    before = torch.get_num_threads()
    with TorchBackend(network, (3, 2, 2), batch=4, threads=before + 1) as backend:
        assert (backend.name, backend.precision, backend.batch, backend.threads) == ("torch-cpu", "fp32", 4, before + 1)
        assert torch.get_num_threads() == before + 1
        assert not network.training
        assert backend.run() is None
    assert torch.get_num_threads() == before
    assert network.training


@pytest.mark.parametrize("batch", [2**50, 10**30])
def test_torch_says_that_a_batch_does_not_fit(batch: int) -> None:
    network = torch.nn.Linear(4, 2).train()
    with pytest.raises(MeasurementError, match="do not fit here"):
        TorchBackend(network, (4,), batch=batch, threads=1)
    assert network.training  # as it was


def test_a_forward_that_fails_ends_a_sweep_and_not_the_program() -> None:
    class Full(torch.nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with (
        TorchBackend(Full(4, 2), (4,), batch=8) as backend,
        pytest.raises(MeasurementError, match="Full fails at batch 8: CUDA out"),
    ):
        backend.run()


def test_torch_refuses_a_device_it_does_not_have() -> None:
    network = torch.nn.Linear(2, 2)
    with pytest.raises(MeasurementError, match="unknown device 'tpu'"):
        TorchBackend(network, (2,), device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(MeasurementError, match="no CUDA device"):
            TorchBackend(network, (2,), device="cuda")


class FakeEngine:
    """Records how the backend uses an engine."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.objection: str | None = None  # to being captured

    def capture(self) -> str | None:
        self.calls.append("capture")
        return self.objection

    def __enter__(self) -> FakeEngine:
        self.calls.append("enter")
        return self

    def __exit__(self, *exception: object) -> None:
        self.calls.append("exit")

    def prepare(self, batch: int) -> None:
        self.calls.append(f"prepare {batch}")
        if batch > 8:
            raise MeasurementError("batch 9 is beyond the engine's 8")

    def infer_timed(self) -> float:
        self.calls.append("infer")
        return 1.25


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()

    class Engine:
        @staticmethod
        def load(path: Path, *, sha256: str | None, product: Product) -> FakeEngine:
            assert (path, sha256, product) == (Path("model.plan"), None, TENSORRT)
            return fake

    module = ModuleType("autoformer.export.engines.engine")
    module.Engine = Engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autoformer.export.engines.engine", module)
    return fake


def test_tensorrt_prepares_the_batch_once_and_gives_the_devices_time(engine: FakeEngine) -> None:
    with TensorRTBackend(Path("model.plan"), batch=4) as backend:
        assert (backend.name, backend.threads, backend.batch) == ("tensorrt", None, 4)
        assert backend.run() == 1.25
    assert engine.calls == ["enter", "prepare 4", "infer", "exit"]


def test_tensorrt_with_a_cuda_graph_has_another_name_and_refuses_with_the_reason(engine: FakeEngine) -> None:
    with TensorRTBackend(Path("model.plan"), batch=4, cuda_graph=True) as backend:
        assert backend.name == "tensorrt-graph"
    assert engine.calls == ["enter", "prepare 4", "capture", "exit"]
    engine.objection = "it decides shapes at run time"
    with pytest.raises(MeasurementError, match="cannot run as a CUDA graph: it decides shapes at run time; measure it without"):
        TensorRTBackend(Path("model.plan"), cuda_graph=True)
    assert engine.calls[-1] == "exit"


def test_tensorrt_releases_the_engine_when_it_cannot_be_prepared(engine: FakeEngine) -> None:
    with pytest.raises(MeasurementError, match="beyond"):
        TensorRTBackend(Path("model.plan"), batch=9)
    assert engine.calls == ["enter", "prepare 9", "exit"]


def test_board_modules_import_nothing_but_the_standard_library() -> None:
    program = (
        "import sys\n"
        "for name in ('numpy', 'torch', 'onnx', 'onnxruntime', 'PIL', 'pydantic', 'timm', 'tensorrt', 'cuda', 'pynvml'):\n"
        "    sys.modules[name] = None\n"
        f"for name in {BOARD_MODULES}:\n"
        "    __import__(f'autoformer.profiling.{name}')\n"
        "from autoformer.profiling.measuring.device import DeviceFacts\n"
        "from autoformer.profiling.backends.onnxruntime_backend import OnnxRuntimeBackend\n"
        "from autoformer.errors import MissingPackageError\n"
        "print(DeviceFacts.collect().short_name)\n"
        "try:\n"
        "    OnnxRuntimeBackend(b'')\n"
        "except MissingPackageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "core" in done.stdout
    assert "pip install onnxruntime" in done.stdout


def test_the_plugin_for_rtx_gpus_is_registered_once_and_what_it_lacks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVIDIA's plugin as its page describes it; here a stand-in, since it needs a driver to be loaded."""
    registered, runtime = list[tuple[str, str]](), import_onnxruntime()

    def opened() -> OnnxRuntimeBackend:
        return OnnxRuntimeBackend(graph(["batch", 3, 4, 4]), provider="tensorrt-rtx")

    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(MissingPackageError, match="pip install onnxruntime-ep-nv-tensorrt-rtx"):
        opened()
    plugin = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    plugin.get_ep_name = lambda: "NvTensorRTRTXExecutionProvider"  # type: ignore[attr-defined]
    plugin.get_library_path = lambda: str(tmp_path / "none.so")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", plugin)
    with pytest.raises(MeasurementError, match=r"cannot be loaded \(.*none\.so.*\); an RTX GPU and NVIDIA's driver are needed"):
        opened()  # the real ONNX Runtime, which finds no such library
    monkeypatch.setattr(runtime, "register_execution_provider_library", lambda *words: registered.append(words))
    for _ in range(2):
        with pytest.raises(MeasurementError, match="NvTensorRTRTXExecutionProvider finds no RTX GPU here"):
            opened()
    assert registered == [("NvTensorRTRTXExecutionProvider", str(tmp_path / "none.so"))]
    monkeypatch.delattr(runtime, "register_execution_provider_library")
    with pytest.raises(MissingPackageError, match=r"takes no plugins; install 1\.24 or newer"):
        opened()
