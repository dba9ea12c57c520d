"""`KitResult`: what a device sends back, as one JSON file: raw samples, the device, and the networks they are of.

It carries its own digest and that of the kit, so that a file that was cut off, edited or made for something else is refused.
Whoever wants to can compute a digest anew: it guards against accidents, not against people who measure for you.
Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from autoformer.errors import CheckpointError, MeasurementError
from autoformer.export.manifest import sha256_of
from autoformer.files import believing, json_digest, read_document, replacing
from autoformer.profiling.kits.kit import FILE_NAME, Kit
from autoformer.profiling.kits.measuring import Rows, Setting
from autoformer.profiling.measuring.device import DeviceFacts, GpuFacts
from autoformer.profiling.measuring.drift import joined, without_common_drift
from autoformer.profiling.measuring.machine_state import MachineState
from autoformer.profiling.measuring.measure import KINDS_OF_SAMPLES, Measurement, Warmup
from autoformer.profiling.measuring.order_statistics import Gates, LatencyStats, judge

FORMAT = "autoformer/kit-result/1"
ADVICE = "copy it again from the device"


@dataclass(frozen=True, kw_only=True)
class KitResult:
    """The measurements of one kit by one runtime on one device."""

    kit: Kit
    kit_digest: str  # SHA-256 of the kit's manifest file
    runtime: str
    facts: Mapping[str, str]  # of the runtime
    device: DeviceFacts
    stopped: Mapping[Setting, str]  # why each finished setting ended
    not_measured: Mapping[str, str]  # by setting, why
    rows: tuple[Mapping[str, Any], ...]
    created: str  # ISO 8601, UTC

    @classmethod
    def of(
        cls,
        folder: Path,
        kit: Kit,
        rows: Rows,
        device: DeviceFacts,
        stopped: Mapping[Setting, str],
        not_measured: Mapping[str, str],
    ) -> KitResult:
        """What was measured of the kit in `folder`; rows of unfinished settings are left out."""
        wanted = {(setting.precision, setting.batch) for setting in stopped}
        said = next((row["gpu"] for row in rows.rows if row["row"] == "build" and row.get("gpu")), None)
        if said is not None and not device.gpus and device.jetson is None:  # without nvidia-smi only the runtime knows the GPU
            device = replace(device, gpus=(GpuFacts(str(said), "unknown", "unknown", None),))
        return cls(
            kit=kit,
            kit_digest=sha256_of(folder / FILE_NAME),
            runtime=rows.head["runtime"],
            facts=rows.head["facts"],
            device=device,
            stopped=dict(stopped),
            not_measured=dict(not_measured),
            rows=tuple(row for row in rows.rows if (row["precision"], row["batch"]) in wanted),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 (Python 3.10)
        )

    def measurements(self, setting: Setting) -> dict[tuple[str, int], Measurement]:
        """Each instance (name, build) as one measurement of all its rounds, common drift taken out.

        Raises `MeasurementError` when `setting` was not measured, `CheckpointError` when a row cannot be right.
        """
        if setting not in self.stopped:
            have = "; ".join(str(one) for one in self.stopped) or "nothing"
            raise MeasurementError(f"{setting} was not measured on this device, only {have}")
        with believing(f"the result of {setting}", ADVICE):
            return self._steady(setting)

    def _steady(self, setting: Setting) -> dict[tuple[str, int], Measurement]:
        rounds: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for row in self.rows:
            if row["row"] == "visit" and (row["precision"], row["batch"]) == (setting.precision, setting.batch):
                rounds.setdefault((row["network"], row["build"]), []).append(row)
        found = {}
        for (name, build), visits in rounds.items():
            taken = [self._measurement(row) for row in sorted(visits, key=lambda row: int(row["round"]))]
            whole = taken[0]
            for one in taken[1:]:
                whole = joined(whole, one)
            found[f"{build} {name}"] = whole
        if unseen := [network.name for network in self.kit.networks if f"0 {network.name}" not in found]:
            raise ValueError(f"network {unseen[0]} was never visited")
        if len({len(one.round_runs) for one in found.values()}) > 1:
            raise ValueError("not all networks were visited equally often")
        steady = without_common_drift(found)
        return {(name.split(" ", 1)[1], int(name.split(" ", 1)[0])): one for name, one in steady.items()}

    def _measurement(self, row: Mapping[str, Any]) -> Measurement:
        samples = {kind: tuple(time / 1000 for time in row[kind.replace("_ms", "_us")]) for kind in KINDS_OF_SAMPLES}
        said, wall = row["conditions"], samples["samples_ms"]
        stats = LatencyStats.from_samples(wall)
        return Measurement(
            name=row["network"], backend=self.runtime, precision=row["precision"], batch=row["batch"], threads=row["threads"],
            settings={**row["settings"], **self.facts}, device=self.device,
            warmup=Warmup(row["warmup_runs"], 0.0, row["settled"]), stats=stats, cpu_stats=None, device_stats=None,
            verdict=judge(stats, Gates.for_backend(self.runtime)), round_runs=(len(wall),),
            conditions=None if said is None else MachineState.from_dict(said), **samples,
        ).with_samples()  # fmt: skip

    # --- file ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The JSON form without its digest."""
        return {
            "format": FORMAT,
            "kit": {**self.kit.to_dict(), "sha256": self.kit_digest},
            "runtime": self.runtime,
            "facts": dict(self.facts),
            "device": self.device.to_dict(),
            "stopped": [
                {"precision": setting.precision, "batch": setting.batch, "reason": reason}
                for setting, reason in self.stopped.items()
            ],
            "not_measured": dict(self.not_measured),
            "rows": [dict(row) for row in self.rows],
            "created": self.created,
        }

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all, on one line: thousands of samples."""
        values = self.to_dict()
        with replacing(path) as beside:
            beside.write_text(json.dumps({**values, "sha256": json_digest(values)}, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> KitResult:
        """Reads a file. Raises `CheckpointError` when it is damaged, was edited, or is something else."""
        values = read_document(path, FORMAT, expected="what a kit's board.pyz measure writes")
        digest = values.pop("sha256", None)
        if digest != json_digest(values):
            raise CheckpointError(f"{path} is not as the device wrote it (its digest differs); copy it again from there")
        with believing(path, ADVICE):
            kit = Kit.from_dict({key: value for key, value in values["kit"].items() if key != "sha256"})
            return cls(
                kit=kit,
                kit_digest=str(values["kit"]["sha256"]),
                runtime=str(values["runtime"]),
                facts={str(key): str(value) for key, value in values["facts"].items()},
                device=DeviceFacts.from_dict(values["device"]),
                stopped={Setting(one["precision"], int(one["batch"])): str(one["reason"]) for one in values["stopped"]},
                not_measured={str(key): str(value) for key, value in values["not_measured"].items()},
                rows=tuple(values["rows"]),
                created=str(values["created"]),
            )
