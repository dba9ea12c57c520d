"""Device facts read from made-up systems whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoformer.errors import CheckpointError
from autoformer.profiling.measuring.device import DeviceFacts, GpuFacts, parse_nvidia_smi
from autoformer.profiling.measuring.system_files import usable_cores
from tests.support.devices import system


def test_a_pc_is_described(tmp_path: Path) -> None:
    cpuinfo = (
        "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i7-1185G7   @ 3.00GHz\nflags\t\t: fpu avx2 avx512_vnni sse\n\n"
        "processor\t: 1\nmodel name\t: other\nflags\t\t: fpu avx_vnni\n"
    )
    root = system(
        tmp_path,
        {
            "proc/cpuinfo": cpuinfo,
            "proc/loadavg": "1.25 0.50 0.10 1/200 4242\n",
            "proc/meminfo": "MemTotal:       16384000 kB\nMemFree: 1 kB\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
        },
    )
    facts = DeviceFacts.collect(root)
    assert facts.cpu == "Intel Core i7-1185G7 @ 3.00GHz"
    assert facts.isa == ("avx2", "avx512_vnni")
    assert (facts.load_average, facts.memory_mib, facts.governor) == (1.25, 16000, "powersave")
    assert (facts.jetson, facts.l4t) == (None, None)
    assert facts.short_name.startswith("Intel Core i7-1185G7 @ 3.00GHz, ")
    assert facts.cores == usable_cores()


def test_a_jetson_is_named_by_its_model(tmp_path: Path) -> None:
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081\nmore"
    root = system(
        tmp_path,
        {
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "etc/nv_tegra_release": release,
        },
    )
    facts = DeviceFacts.collect(root)
    assert facts.cpu == facts.jetson == facts.gpu_name == "NVIDIA Jetson Orin Nano Developer Kit"
    assert facts.isa == ("asimd", "asimddp")
    assert facts.l4t == "# R36 (release), REVISION: 4.3, GCID: 38968081"
    assert facts.has_gpu


def test_an_arm_board_without_tegra_is_no_jetson(tmp_path: Path) -> None:
    root = system(tmp_path, {"proc/cpuinfo": "Features : asimd", "proc/device-tree/model": "Raspberry Pi 5"})
    facts = DeviceFacts.collect(root)
    assert (facts.cpu, facts.jetson) == ("Raspberry Pi 5", None)


def test_nvidia_smi_is_understood() -> None:
    text = "NVIDIA H200, 580.65.06, 9.0, 143771\nOrin (nvgpu), 540.4.0, 8.7, [N/A]\nNVIDIA-SMI has failed"
    assert parse_nvidia_smi(text) == (
        GpuFacts("NVIDIA H200", "580.65.06", "9.0", 143771),
        GpuFacts("Orin (nvgpu)", "540.4.0", "8.7", None),
    )
    assert parse_nvidia_smi(None) == ()


def test_this_machine_is_described_and_survives_json() -> None:
    facts = DeviceFacts.collect()
    assert facts.cpu
    assert facts.versions["torch"][0].isdigit()
    assert "tensorrt-nonsense" not in facts.versions
    assert DeviceFacts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts
    with pytest.raises(CheckpointError, match="device lacks 'cores'"):
        DeviceFacts.from_dict({"cpu": "x"})
