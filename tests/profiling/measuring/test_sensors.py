"""Sensors read from made-up systems and a made-up management library, whose answers are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoformer.profiling.measuring.device import DeviceFacts, power_mode
from autoformer.profiling.measuring.gpu_sensors import GpuReading, JetsonSensors, NvmlSensors, clocks_locked, power_w
from autoformer.profiling.measuring.sensors import MachineSensors
from autoformer.profiling.measuring.system_files import usable_cores
from tests.support.devices import system

ORIN = {
    "sys/class/devfreq/17000000.gpu/device/of_node/name": "ga10b\0",
    "sys/class/devfreq/17000000.gpu/min_freq": "612000000",
    "sys/class/devfreq/17000000.gpu/max_freq": "612000000",
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "1510400",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1510400",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "51500",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone1/temp": "48250",
    "sys/bus/i2c/devices/1-0040/name": "ina3221",
    "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_label": "VDD_IN",
    "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_input": "5000",
    "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr1_input": "1200",
    "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV",
    "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in2_input": "5000",
    "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr2_input": "400",
}


def test_a_jetson_is_read_from_its_files(tmp_path: Path) -> None:
    root = system(tmp_path, ORIN)
    sensors = JetsonSensors.open(root)
    assert sensors is not None
    assert sensors.read() == GpuReading(clock_mhz=612, temperature_c=48.25, power_w=6.0)  # 5 V times 1.2 A
    assert clocks_locked(root) is True
    reading = MachineSensors(root).read(1.5)
    assert (reading.seconds, reading.cpu_temperature_c, reading.gpu) == (1.5, 51.5, sensors.read())


def test_clocks_that_may_move_are_not_locked(tmp_path: Path) -> None:
    root = system(tmp_path, {**ORIN, "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600"})
    assert clocks_locked(root) is False
    assert clocks_locked(tmp_path / "elsewhere") is None


def test_rails_are_added_where_none_is_the_whole_without_those_that_lead_nowhere(tmp_path: Path) -> None:
    monitor = "sys/bus/i2c/devices/1-0041/hwmon/hwmon4"
    files = {"sys/bus/i2c/devices/1-0041/name": "ina3221"}
    for index, label in ((1, "GPU"), (2, "CPU"), (3, "NC"), (7, "sum of shunt voltages")):
        files |= {
            f"{monitor}/in{index}_label": label,
            f"{monitor}/in{index}_input": "19000",
            f"{monitor}/curr{index}_input": "100",
        }
    assert power_w(system(tmp_path, files)) == pytest.approx(3.8)  # two rails of 1.9 W


def test_who_is_busy_is_read_from_the_system(tmp_path: Path) -> None:
    # user 300, nice 100, system 50, idle and waiting not, irq 30, softirq 20: 500 ticks on each core
    lines = ["cpu  1 1 1 1 1 1 1", *(f"cpu{core} 300 100 50 9999 888 30 20 5 0 0" for core in range(1024)), "intr 1"]
    root = system(
        tmp_path,
        {
            "proc/stat": "\n".join(lines),
            **{f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq": "2400000" for core in range(256)},
            **{f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count": "2" for core in range(256)},
        },
    )
    reading = MachineSensors(root).read(0)
    assert reading.busy_cpu_s == pytest.approx(500 / 100 * usable_cores())  # Linux counts 100 ticks a second
    assert (reading.cpu_clock_mhz, reading.cpu_throttles) == (2400, 2 * usable_cores())
    assert reading.own_cpu_s is not None
    assert reading.own_cpu_s > 0


def test_a_machine_that_says_nothing_gives_nothing(tmp_path: Path) -> None:
    reading = MachineSensors(tmp_path).read(0)
    assert (reading.cpu_clock_mhz, reading.cpu_temperature_c, reading.cpu_throttles, reading.busy_cpu_s) == (None,) * 4


class NvmlError(Exception):
    """What the made-up library raises."""


def library(**more: Any) -> SimpleNamespace:
    """The management library with the names of nvidia-ml-py 13.615: a GPU that answers everything but its energy."""

    def refuse(handle: object) -> int:
        raise NvmlError("not supported")

    return SimpleNamespace(
        **{
            "NVMLError": NvmlError,
            "NVML_CLOCK_SM": 1,
            "NVML_TEMPERATURE_GPU": 0,
            "nvmlDeviceGetHandleByIndex": lambda index: f"gpu {index}",
            "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x04 | 0x40 | 0x02,
            "nvmlDeviceGetPowerUsage": lambda handle: 61_500,
            "nvmlDeviceGetTotalEnergyConsumption": refuse,
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=2**34, used=3 * 2**20),
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: [object(), object()],
            "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1755}[kind],
            "nvmlDeviceGetTemperature": lambda handle, kind: {0: 64}[kind],
            **more,
        }
    )


def test_a_gpu_is_read_through_its_library() -> None:
    assert NvmlSensors(library()).read() == GpuReading(
        clock_mhz=1755,
        temperature_c=64,
        power_w=61.5,
        energy_j=None,
        memory_mib=3,
        throttle=("power cap", "heat (hardware)"),  # bit 2 says that clocks were set, which is no slowdown
        processes=2,
    )


def test_an_older_library_calls_the_reasons_by_another_name() -> None:
    older = library(nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x08)
    del older.nvmlDeviceGetCurrentClocksEventReasons
    assert NvmlSensors(older).read().throttle == ("hardware slowdown",)


def test_the_energy_counter_is_read_where_there_is_one() -> None:
    assert NvmlSensors(library(nvmlDeviceGetTotalEnergyConsumption=lambda handle: 2500)).read().energy_j == 2.5


def test_preflight_facts_name_container_mode_and_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    facts = DeviceFacts.collect(system(tmp_path, {**ORIN, ".dockerenv": "", "proc/loadavg": "0.1 0 0 1/2 3"}))
    assert (facts.container, facts.clocks_locked, facts.cpu_temperature_c) == ("docker", True, 51.5)
    assert facts.thread_settings["OMP_NUM_THREADS"] == "3"
    assert DeviceFacts.from_dict(facts.to_dict()) == facts
    assert DeviceFacts.collect(system(tmp_path / "pod", {"proc/1/cgroup": "0::/kubepods/besteffort"})).container == "kubepods"
    assert power_mode("NV Power Mode: MODE_15W\n2") == "MODE_15W"
    assert power_mode("nothing") is None


def test_facts_of_earlier_versions_are_read() -> None:
    facts = DeviceFacts.collect()
    values = facts.to_dict()
    for name in ("power_mode", "clocks_locked", "container", "cpu_temperature_c", "thread_settings"):
        del values[name]
    read = DeviceFacts.from_dict(values)
    assert (read.cpu, read.power_mode, dict(read.thread_settings)) == (facts.cpu, None, {})
