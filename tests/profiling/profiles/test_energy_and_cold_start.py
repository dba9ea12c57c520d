"""Energy from scripted sensors whose joules are known, and the beginning of a network in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from autoformer.errors import MeasurementError
from autoformer.profiling.measuring.gpu_sensors import GpuReading
from autoformer.profiling.measuring.sensors import Reading
from autoformer.profiling.profiles.cold_start import ColdStart, cold_start, memory_mib
from autoformer.profiling.profiles.energy import Energy, measure_energy
from autoformer.records import from_json
from tests.support.fakes import ScriptedBackend, ScriptedClock
from tests.support.layer_profiles import graph


class PowerSensors:
    """Watts and joules as they are told."""

    def __init__(self, watts: Callable[[], float | None], joules: Callable[[], float | None] = lambda: None) -> None:
        self.watts, self.joules = watts, joules

    def read(self, seconds: float) -> Reading:
        return Reading(seconds, gpu=GpuReading(power_w=self.watts(), energy_j=self.joules()))


def measured(joules: Callable[[ScriptedClock], float | None] = lambda clock: None) -> Energy:
    """A network of 5 images whose runs take 10 ms, on a device that draws 2 W at rest and 6 W once the clock passed 1 s."""
    clock = ScriptedClock()
    sensors = PowerSensors(lambda: 2.0 if clock() < 1e9 else 6.0, lambda: joules(clock))
    backend = ScriptedBackend(clock, lambda run: 10.0)
    backend.batch = 5
    return measure_energy(
        "a", backend, sensors, seconds=2.0, idle_s=1.0, clock=lambda: clock() / 1e9, rest=lambda s: clock.advance_ms(1000 * s)
    )


def test_energy_is_watts_times_seconds_over_runs() -> None:
    found = measured()
    assert (found.idle_w, found.load_w, found.counted) == (2.0, 6.0, False)
    assert found.runs == 200
    assert found.seconds == pytest.approx(2.0)
    assert found.joule_per_run == pytest.approx(6.0 * 0.010)
    assert found.images_per_joule == pytest.approx(5 / 0.06)
    assert Energy.from_dict(found.to_dict()) == found


def test_the_counter_of_the_device_is_used_where_there_is_one() -> None:
    found = measured(lambda clock: 100 + 8.0 * clock() / 1e9)  # it counts 8 W all the time
    assert found.counted
    assert found.joule_per_run == pytest.approx(8.0 * 0.010)


def test_without_a_sensor_there_is_no_energy() -> None:
    clock = ScriptedClock()
    with pytest.raises(MeasurementError, match="no sensor here tells the power"):
        measure_energy("a", ScriptedBackend(clock, lambda run: 1.0), PowerSensors(lambda: None))


def test_memory_is_read_from_the_system(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n")
    assert (memory_mib("VmHWM", status), memory_mib("VmRSS", status)) == (20.0, 10.0)
    assert memory_mib("VmHWM", tmp_path / "absent") is None


def test_a_network_begins_in_a_process_of_its_own(tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "model.onnx")
    found = cold_start(str(tmp_path / "model.onnx"), "model", "onnxruntime-cpu", batch=2, threads=1, idle_s=0.0)
    assert (found.name, found.backend, found.batch, found.idle_s) == ("model", "onnxruntime-cpu", 2, 0.0)
    assert min(found.load_ms, found.first_ms, found.warm_ms, found.after_idle_ms) > 0
    assert found.memory_mib is None or 0 <= found.memory_mib < 1000
    assert from_json(ColdStart, found.to_dict()) == found
    with pytest.raises(MeasurementError, match=r"absent\.onnx"):
        cold_start(str(tmp_path / "absent.onnx"), "absent", "onnxruntime-cpu", batch=1, threads=1)
