"""The machine is watched while the networks of tables and kits are measured; drift that all share counts against none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from autoformer.profiling.kits.kit import Kit
from autoformer.profiling.kits.rows import Visit
from autoformer.profiling.kits.runtimes import OnnxRuntimeRuntime
from autoformer.profiling.measuring import drift
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.drift import joined, measure_together
from autoformer.profiling.measuring.gpu_sensors import GpuReading
from autoformer.profiling.measuring.machine_state import MachineState
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, measure
from autoformer.profiling.measuring.sensors import Reading
from autoformer.profiling.measuring.verdict import VALID
from autoformer.records import to_json
from tests.support.conditions import ScriptedSensors
from tests.support.drifts import taken
from tests.support.fakes import ScriptedBackend, ScriptedClock
from tests.support.kits import FACTS, RULE, small_kit

CONFIG = MeasureConfig(warmup_s=0, warmup_max_s=1, rounds=3, lead_in_runs=0, min_runs=60, min_s=0, max_s=1e9)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Measurement]]:
    """Measures three networks of 10, 20 and 30 ms, two sessions each, while the sensors say `readings(k)` at the k-th look."""

    def run(readings: Callable[[int], Reading], name: str = "torch-cpu") -> dict[str, Measurement]:
        clock = ScriptedClock()
        networks = {
            str(ms): [ScriptedBackend(clock, lambda k, ms=ms: ms, name=name, device_ms=ms) for _ in range(2)]  # type: ignore[misc]
            for ms in (10.0, 20.0, 30.0)
        }
        monkeypatch.setattr(drift, "measure", partial(measure, clock=clock, cpu_clock=clock))
        monkeypatch.setattr(drift, "MachineSensors", lambda: ScriptedSensors(readings))
        monkeypatch.setattr(DeviceFacts, "collect", lambda: replace(FACTS, load_average=9.0))
        (found,) = measure_together(networks, CONFIG, 1)
        return found

    return run


def test_a_clock_that_changes_for_all_networks_alike_leaves_a_table_valid(
    together: Callable[..., dict[str, Measurement]],
) -> None:
    def falling(look: int) -> Reading:  # 1500 MHz to 1000 and 40 °C to 90, over the 55 or so looks
        return Reading(0, gpu=GpuReading(clock_mhz=1500 - 9 * look, temperature_c=40 + look, processes=1))

    for one in together(falling, "torch-cuda").values():
        assert (one.verdict.level, one.verdict.reasons) == (VALID, ())
        assert one.conditions is not None
        clocks = [reading.gpu.clock_mhz for reading in one.conditions.readings if reading.gpu and reading.gpu.clock_mhz]
        assert max(clocks) - min(clocks) > 200  # it stays to be seen


def test_a_throttle_bit_flips_the_verdicts_of_a_table(together: Callable[..., dict[str, Measurement]]) -> None:
    found = together(lambda look: Reading(0, gpu=GpuReading(throttle=("power cap",))), "torch-cuda")
    assert {one.verdict.reasons for one in found.values()} == {("throttled: power cap",)}


@pytest.mark.parametrize(("others_s", "level"), [(0.005, VALID), (0.05, "UNSTABLE")])
def test_other_programs_flip_the_verdicts_of_a_table(
    others_s: float, level: str, together: Callable[..., dict[str, Measurement]]
) -> None:
    # There is one core and the network uses it. A visit takes 0.1, 0.2 or 0.3 s; in it the others use `others_s` of a core, which
    # is 5 per cent of it at most, or 17 at least.
    found = together(lambda look: Reading(0, own_cpu_s=0.0, busy_cpu_s=1 + others_s * look))
    assert all(one.conditions is not None and one.conditions.known_other_cores is not None for one in found.values())
    assert {one.verdict.level for one in found.values()} == {level}


def test_visits_too_short_to_tell_alone_tell_it_together() -> None:
    quiet, busy = (MachineState(other_cores=cores, visits_s=0.3, load_average=9.0) for cores in (0.0, 0.4))
    assert quiet.known_other_cores is None
    both = quiet.joined(busy)
    assert both.visits_s == pytest.approx(0.6)
    assert both.known_other_cores == pytest.approx(0.2)
    one = taken(1.0, (1, 1)).with_samples(conditions=quiet)
    assert "load average 9" in str(one.verdict)
    assert joined(one, one).verdict.level == VALID


def test_conditions_of_earlier_versions_are_read() -> None:
    values = MachineState(other_cores=0.2).to_dict()
    del values["visits_s"]
    assert MachineState.from_dict(values).known_other_cores == 0.2


def test_a_kits_visits_hold_what_the_sensors_said(tmp_path: Path) -> None:
    small_kit(tmp_path / "kit")
    network = Kit.load(tmp_path / "kit").networks[0]
    sensors = ScriptedSensors(lambda look: Reading(0, cpu_throttles=look))
    runtime = OnnxRuntimeRuntime(tmp_path / "kit", "cpu", 1, FACTS, sensors)
    visit = Visit.of(runtime.visit(network, "fp32", 1, 0, RULE), 0, precision="fp32", batch=1, network=network.name, build=0)
    assert to_json(visit)["conditions"]["throttle"] == ["heat (processor)"]
