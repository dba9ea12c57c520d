"""A Jetson's clocks, heat and power, read from the kernel's files; no package is needed.

The GPU is the devfreq device named after its chip. The INA3221 monitors give millivolts and milliamperes per rail; the rail
VDD_IN is the whole module's where it exists, else the rails are added, without those that are not connected and the
seventh channel, which is a sum itself.

Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from autoformer.profiling.device import text_of
from autoformer.profiling.sensors import GpuReading

CHIPS = {"ga10b", "gv11b", "gp10b", "gpu"}  # Orin, Xavier, TX2, later ones
TOTAL_RAIL = "VDD_IN"


class JetsonSensors:
    """The sensors of one Jetson: its GPU's devfreq folder and the files of its power monitors."""

    def __init__(self, root: Path, gpu: Path) -> None:
        self._root, self._gpu = root, gpu

    @classmethod
    def open(cls, root: Path = Path("/")) -> JetsonSensors | None:
        """None where no Jetson's GPU is found."""
        for place in sorted((root / "sys/class/devfreq").glob("*")):
            if text_of(place / "device/of_node/name") in CHIPS:
                return cls(root, place)
        return None

    def read(self) -> GpuReading:
        """How the Jetson is now."""
        clock = number(self._gpu / "cur_freq")  # Hz
        return GpuReading(
            clock_mhz=None if clock is None else clock / 1e6,
            temperature_c=self._temperature_c(),
            power_w=power_w(self._root),
        )

    def _temperature_c(self) -> float | None:
        for zone in sorted((self._root / "sys/class/thermal").glob("thermal_zone*")):
            if (text_of(zone / "type") or "").lower().startswith("gpu"):
                value = number(zone / "temp")
                return None if value is None else value / 1000
        return None


def clocks_locked(root: Path = Path("/")) -> bool | None:
    """Whether the GPU's clock and every CPU's cannot move (least, greatest and present are one); None on other machines."""
    sensors = JetsonSensors.open(root)
    if sensors is None:
        return None
    found = [tuple(number(sensors._gpu / f"{which}_freq") for which in ("min", "max", "cur"))]
    for core in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        found.append(tuple(number(core / f"scaling_{which}_freq") for which in ("min", "max", "cur")))
    return all(None not in three and len(set(three)) == 1 for three in found)


def power_w(root: Path = Path("/")) -> float | None:
    """What the module draws now; None where no monitor answers."""
    rails = dict(_rails(root))
    if TOTAL_RAIL in rails:
        return rails[TOTAL_RAIL]
    return sum(rails.values()) if rails else None


def _rails(root: Path) -> Iterator[tuple[str, float]]:
    """Name and watts of each connected rail."""
    for device in sorted((root / "sys/bus/i2c/devices").glob("*")):
        if "ina3221" not in (text_of(device / "name") or ""):
            continue
        for monitor in sorted(device.glob("hwmon/hwmon*")):
            for index in range(1, 7):
                label = text_of(monitor / f"in{index}_label")
                millivolts, milliamperes = number(monitor / f"in{index}_input"), number(monitor / f"curr{index}_input")
                if label is not None and label != "NC" and millivolts is not None and milliamperes is not None:
                    yield label, millivolts * milliamperes / 1e6


def number(path: Path) -> float | None:
    """A file that holds one whole number."""
    text = text_of(path) or ""
    return float(text) if text.lstrip("-").isdigit() else None
