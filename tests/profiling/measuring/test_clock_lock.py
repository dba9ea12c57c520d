"""The GPU's clock is held while something is measured, freed whatever ends it, and the record says where it was held."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from autoformer.cli.board import bench as board_bench
from autoformer.cli.board import kit_program as board_kit
from autoformer.cli.board.bundle import Bundle
from autoformer.cli.profile_commands.measurement_tables import verdict_words
from autoformer.errors import MeasurementError
from autoformer.profiling.backends.of_artefacts import Job
from autoformer.profiling.kits.result import KitResult
from autoformer.profiling.measuring.clock_lock import locked_clocks
from autoformer.profiling.measuring.gpu_sensors import GpuReading
from autoformer.profiling.measuring.machine_state import MachineState
from autoformer.profiling.measuring.measure import MeasureConfig
from autoformer.profiling.measuring.sensors import Reading
from autoformer.profiling.profiles import latency
from autoformer.profiling.profiles.latency import Profile, ProfileRequest, profile_artefacts
from tests.support.commands import command
from tests.support.fake_nvml import BASE_MHZ, FakeNvml
from tests.support.fakes import ScriptedBackend, ScriptedClock
from tests.support.kits import small_kit
from tests.support.layer_profiles import graph
from tests.support.measurements import FACTS
from tests.support.scripted_trtexec import write_trtexec

TDP = 0xFFFFFF01  # nvml.h: NVML_CLOCK_LIMIT_ID_TDP; both bounds mean the base clock
LOCK, FREE = ("nvmlDeviceSetGpuLockedClocks", "gpu 0", TDP, TDP), ("nvmlDeviceResetGpuLockedClocks", "gpu 0")
QUICK = MeasureConfig(
    warmup_s=0, warmup_max_s=0.05, warmup_window=2, settle=1, rounds=3, lead_in_runs=0, min_runs=30, min_s=0, max_s=1
)
Nvml = Callable[..., FakeNvml]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    """Puts a management library in place that refuses what it is told to."""

    def place(**refuses: int) -> FakeNvml:
        found = FakeNvml(refuses)
        monkeypatch.setitem(sys.modules, "pynvml", found)
        return found

    return place


def test_the_clock_is_held_at_its_base_for_the_block_and_free_afterwards(nvml: Nvml) -> None:
    library = nvml()
    with locked_clocks(FACTS) as device:
        assert library.calls == [LOCK]
        assert device == replace(FACTS, clocks_locked=True)
    assert library.calls == [LOCK, FREE]
    assert library.opened == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, MeasurementError])
def test_the_clock_is_freed_when_the_measurement_is_stopped_or_fails(nvml: Nvml, error: type[BaseException]) -> None:
    library = nvml()
    with pytest.raises(error), locked_clocks(FACTS):
        raise error
    assert library.calls == [LOCK, FREE]


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def ending(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that ends a program, as far as its parent has not told it otherwise; what was set stands again afterwards."""
    number: signal.Signals = request.param
    before = signal.signal(number, signal.SIG_DFL)
    yield number
    signal.signal(number, before)


def test_a_signal_that_ends_the_program_frees_the_clock_first(nvml: Nvml, ending: signal.Signals) -> None:
    library = nvml()
    with pytest.raises(SystemExit) as stopped, locked_clocks(FACTS):
        signal.raise_signal(ending)
    assert stopped.value.code == 128 + ending
    assert library.calls == [LOCK, FREE]
    assert signal.getsignal(ending) == signal.SIG_DFL


def test_under_nohup_a_closed_terminal_stops_nothing(nvml: Nvml, ending: signal.Signals) -> None:
    signal.signal(ending, signal.SIG_IGN)
    library = nvml()
    with locked_clocks(FACTS):
        signal.raise_signal(ending)
        assert library.locked
    assert signal.getsignal(ending) == signal.SIG_IGN


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (4, "Test GPU may be locked by an administrator only; run this with sudo, or leave --lock-clocks out"),
        (3, r"Test GPU cannot be locked \(Not Supported\); leave --lock-clocks out"),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do_and_nothing_is_freed(nvml: Nvml, number: int, said: str) -> None:
    library = nvml(nvmlDeviceSetGpuLockedClocks=number)
    with pytest.raises(MeasurementError, match=said), locked_clocks(FACTS):
        raise AssertionError("nothing is measured")
    assert library.calls == []
    assert library.opened == 0


def test_a_clock_that_cannot_be_freed_is_told(nvml: Nvml) -> None:
    nvml(nvmlDeviceResetGpuLockedClocks=15)
    told = r"still locked \(GPU is lost\); free them with: sudo nvidia-smi --reset-gpu-clocks"
    with pytest.raises(MeasurementError, match=told), locked_clocks(FACTS):
        pass


def test_where_there_is_nothing_to_lock_one_line_says_so(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    library = nvml()
    for device, said in (
        (replace(FACTS, jetson="Orin", gpus=()), "run `sudo jetson_clocks` first and leave --lock-clocks out"),
        (replace(FACTS, gpus=()), "nothing that is measured here does; leave it out"),
    ):
        with pytest.raises(MeasurementError, match=said), locked_clocks(device):
            pass
    assert library.calls == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MeasurementError, match="pip install nvidia-ml-py"), locked_clocks(FACTS):
        pass


def profiled(monkeypatch: pytest.MonkeyPatch, name: str = "torch-cuda", *, lock_clocks: bool) -> Profile:
    """A scripted network on that backend, beside the reference network on the CPU."""
    backend = ScriptedBackend(ScriptedClock(), lambda run: 1.0, name=name, device_ms=1.0)
    monkeypatch.setattr(latency, "jobs_of", lambda words, label, *_: [Job(words, label, name, lambda: backend)])
    monkeypatch.setattr(latency, "expand", lambda paths, missing: [(str(path), str(path)) for path in paths])
    return profile_artefacts(["a"], ProfileRequest(backends=[name], threads=1, lock_clocks=lock_clocks), config=QUICK)


def test_the_record_says_where_the_clock_was_held(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    library = nvml()
    profile = profiled(monkeypatch, lock_clocks=True)
    taken = profile.measurements[0]
    assert library.calls == [LOCK, FREE]
    assert taken.gpu_clock == f"locked at {BASE_MHZ} MHz"
    assert taken.to_dict()["conditions"]["locked_clock_mhz"] == BASE_MHZ
    assert "unlocked" not in verdict_words(taken)
    assert profile.reference.gpu_clock is None
    assert profile.reference.conditions is not None
    assert profile.reference.conditions.clocks_locked is None  # nobody locked the processor's


def test_without_the_option_no_clock_is_touched_and_the_record_says_not_locked(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = nvml()
    taken = profiled(monkeypatch, lock_clocks=False).measurements[0]
    assert library.calls == []
    assert taken.gpu_clock == "not locked"
    assert taken.conditions is not None
    assert (taken.conditions.clocks_locked, taken.conditions.locked_clock_mhz) == (False, None)
    assert verdict_words(taken).endswith("(clocks unlocked)")


def test_on_a_processor_the_option_is_an_error(nvml: Nvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    words = ("profile", "run", tmp_path / "model.onnx", "--backend", "onnxruntime-cpu", "--seconds", 0.01, "--lock-clocks")
    answer = command(*words)
    assert answer.code == 2
    assert "--lock-clocks is for what runs on an NVIDIA GPU, and nothing that is measured here does" in answer.error
    library = nvml()
    with pytest.raises(MeasurementError, match="nothing that is measured here does"):
        profiled(monkeypatch, "torch-cpu", lock_clocks=True)
    assert library.calls in ([], [LOCK, FREE])  # never left locked
    graphs = SimpleNamespace(artefacts=lambda: [(tmp_path, SimpleNamespace(is_engine=False))])
    monkeypatch.setattr(Bundle, "open", lambda folder: graphs)
    with pytest.raises(MeasurementError, match="nothing that is measured here does"):
        board_bench.bench(argparse.Namespace(out=None, bundle=tmp_path, lock_clocks=True))


def test_a_clock_that_moved_all_the_same_was_not_held() -> None:
    def visits(*clocks: float) -> list[tuple[Reading, Reading]]:
        return [(Reading(0), Reading(1, gpu=GpuReading(clock_mhz=clock))) for clock in clocks]

    def under(*clocks: float) -> MachineState:
        idle = Reading(0, gpu=GpuReading(clock_mhz=210))
        return MachineState.of(visits(*clocks), on_gpu=True, cores=1, threads=None, clocks_locked=True, at_rest=idle)

    held, moved = under(1065, 1050, 1065), under(1065, 990, 1065)
    assert (held.clocks_locked, held.locked_clock_mhz) == (True, 1065)  # 15 MHz are one step; at rest it may be lower
    assert (moved.clocks_locked, moved.locked_clock_mhz) == (False, None)
    together = held.joined(moved)
    assert (together.clocks_locked, together.locked_clock_mhz) == (False, None)
    assert held.joined(held).locked_clock_mhz == 1065
    values = json.loads(json.dumps(held.to_dict()))
    assert MachineState.from_dict(values) == held
    del values["locked_clock_mhz"]  # a file of an earlier version
    assert MachineState.from_dict(values) == replace(held, locked_clock_mhz=None)


@pytest.mark.slow
def test_a_kit_is_measured_with_a_held_clock_and_its_visits_are_not_mixed_with_others(
    nvml: Nvml, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library, program = nvml(), write_trtexec(tmp_path / "bin", gpu_ms=(2.0,))
    small_kit(tmp_path / "kit")
    words = ["--kit", str(tmp_path / "kit"), "measure", "--quiet", "--runtime", "trtexec", "--trtexec", str(program)]
    assert board_kit.main([*words, "--lock-clocks"]) == 0
    result = KitResult.load(tmp_path / "kit" / "result.json")
    assert library.calls == [LOCK, FREE]
    assert result.device.clocks_locked is True
    capsys.readouterr()
    assert board_kit.main([*words, "--out", str(tmp_path / "other.json")]) == 2
    assert "was measured with another device" in capsys.readouterr().err
    assert board_kit.main([*words[:5], "onnxruntime-cpu", "--lock-clocks", "--out", str(tmp_path / "cpu.json")]) == 2
    assert "--lock-clocks is for what runs on an NVIDIA GPU" in capsys.readouterr().err
    assert library.calls == [LOCK, FREE, LOCK, FREE]
