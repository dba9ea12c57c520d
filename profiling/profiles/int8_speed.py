"""Is int8 worth it on this device? Its measured median against that of fp32, both taken in turns in one measurement.

int8 is slower when the whole 95 % interval of its median lies above that of fp32, and faster when it lies wholly below, by more
than `SAME_SPEED`. Anything else is inconclusive, and so is a measurement that is not VALID. A file that is slower here may be
the faster one elsewhere (a CPU without int8 instructions against TensorRT), so it stays: the verdict goes into the manifest under
the device that it was measured on, and says there that the file is rejected on that device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autoformer.export.manifest import Manifest
from autoformer.profiling.measuring.measure import Measurement, device_name
from autoformer.profiling.measuring.verdict import INCONCLUSIVE, VALID

RUNTIME = "onnxruntime-"
SAME_SPEED = (
    0.03  # √2 × 2.1 %, by which the times of one file differ between sessions (docs/measuring.md): two files may by chance
)


def int8_speed(measurements: Sequence[Measurement]) -> dict[str, dict[str, str]]:
    """By device and backend: the verdict ("slower", "faster", "inconclusive") on int8 against fp32, and one line of reason."""
    found = {}
    for int8 in measurements:
        same = (int8.backend, int8.batch, int8.threads)
        fp32 = next((m for m in measurements if m.precision == "fp32" and (m.backend, m.batch, m.threads) == same), None)
        if int8.precision != "int8" or fp32 is None or not int8.backend.startswith(RUNTIME):
            continue
        images = "" if int8.batch == 1 else f", {int8.batch} images"
        found[f"{device_name(int8.device, int8.backend, int8.threads)}, {int8.backend}{images}"] = _verdict(int8, fp32)
    return found


def note_int8_speed(folder: Path, measurements: Sequence[Measurement]) -> Manifest:
    """Writes the verdicts into the manifest of the export folder `folder`, beside those of other devices, and gives it back.

    Raises `CheckpointError` when there is no manifest.
    """
    manifest = Manifest.load(folder)
    found = int8_speed(measurements)
    artefacts = tuple(
        replace(entry, speed={**entry.speed, **found})
        if (entry.format, entry.precision, entry.status) == ("onnx", "int8", "exported")
        else entry
        for entry in manifest.artefacts
    )
    if artefacts != manifest.artefacts:
        manifest = replace(manifest, artefacts=artefacts)
        manifest.save(folder)
    return manifest


def _verdict(int8: Measurement, fp32: Measurement) -> dict[str, str]:
    figures = f"{_median(int8)} against {_median(fp32)} of fp32"
    unsteady = next((m for m in (int8, fp32) if m.verdict.level != VALID), None)
    if unsteady is not None:
        return {"verdict": INCONCLUSIVE, "reason": f"median {figures}; {unsteady.precision} was {unsteady.verdict}"}
    int8_low, int8_high = int8.stats.p50_low_ms, int8.stats.p50_high_ms
    fp32_low, fp32_high = fp32.stats.p50_low_ms, fp32.stats.p50_high_ms
    if int8_low is None or int8_high is None or fp32_low is None or fp32_high is None:
        return {"verdict": INCONCLUSIVE, "reason": f"median {figures}; too few runs for an interval"}
    if int8_low > fp32_high * (1 + SAME_SPEED):
        return {"verdict": "slower", "reason": f"slower than fp32: median {figures}"}
    if int8_high * (1 + SAME_SPEED) < fp32_low:
        return {"verdict": "faster", "reason": f"faster than fp32: median {figures}"}
    return {"verdict": INCONCLUSIVE, "reason": f"median {figures}; within {100 * SAME_SPEED:g} %, as sessions differ"}


def _median(measurement: Measurement) -> str:
    stats = measurement.stats
    if stats.p50_low_ms is None or stats.p50_high_ms is None:
        return f"{stats.p50_ms:.3g} ms"
    return f"{stats.p50_ms:.3g} ms [{stats.p50_low_ms:.3g}, {stats.p50_high_ms:.3g}]"
