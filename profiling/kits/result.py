"""`KitResult`: what a target device sends back, as one JSON file: raw samples, the device, and the networks they are of.

It carries its own digest and that of the kit, so that a file that was cut off, edited or made for something else is refused.
A digest can be computed anew: it guards against accidents, not against people who measure for you.
Imports the standard library only and works on Python 3.10.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import reduce
from pathlib import Path
from typing import Any

from autoformer.errors import CheckpointError, MeasurementError
from autoformer.export.manifest import sha256_of
from autoformer.files import believing, json_digest, read_document, replacing
from autoformer.profiling.kits.kit import FILE_NAME, Kit
from autoformer.profiling.kits.rows import Build, Rows, Setting, Visit, visits_of
from autoformer.profiling.measuring.device import DeviceFacts, GpuFacts
from autoformer.profiling.measuring.drift import joined, without_common_drift
from autoformer.profiling.measuring.measure import KINDS_OF_SAMPLES, Measurement, Warmup, judged
from autoformer.records import fields_to_json, from_json

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
    rows: tuple[Build | Visit, ...]
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
        said = next((row.gpu for row in rows.rows if isinstance(row, Build) and row.gpu), None)
        if said is not None and not device.gpus and device.jetson is None:  # without nvidia-smi only the runtime knows the GPU
            device = replace(device, gpus=(GpuFacts(said, "unknown", "unknown", None),))
        return cls(
            kit=kit,
            kit_digest=sha256_of(folder / FILE_NAME),
            runtime=rows.head["runtime"],
            facts=rows.head["facts"],
            device=device,
            stopped=dict(stopped),
            not_measured=dict(not_measured),
            rows=tuple(row for row in rows.rows if row.setting in stopped),
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
        visits = visits_of(self.rows, setting)
        if unseen := [network.name for network in self.kit.networks if (network.name, 0) not in visits]:
            raise ValueError(f"network {unseen[0]} was never visited")
        if len({len(own) for own in visits.values()}) > 1:
            raise ValueError("not all networks were visited equally often")
        whole = {
            f"{build} {name}": reduce(joined, map(self._measurement, sorted(own, key=lambda visit: visit.round)))
            for (name, build), own in visits.items()
        }
        steady = without_common_drift(whole)
        return {(name.split(" ", 1)[1], int(name.split(" ", 1)[0])): one for name, one in steady.items()}

    def _measurement(self, visit: Visit) -> Measurement:
        samples = {kind: tuple(time / 1000 for time in getattr(visit, kind.replace("_ms", "_us"))) for kind in KINDS_OF_SAMPLES}
        return Measurement(
            name=visit.network, backend=self.runtime, precision=visit.precision, batch=visit.batch, threads=visit.threads,
            settings={**visit.settings, **self.facts}, device=self.device, warmup=Warmup(visit.warmup_runs, 0.0, visit.settled),
            round_runs=(len(visit.samples_us),), conditions=visit.conditions,
            **judged(self.runtime, samples, visit.conditions),
        )  # fmt: skip

    # --- file ----------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The JSON form without its digest."""
        values = fields_to_json(self)
        digest = values.pop("kit_digest")
        stopped = [{**fields_to_json(setting), "reason": reason} for setting, reason in self.stopped.items()]
        return {"format": FORMAT, **values, "kit": {**values["kit"], "sha256": digest}, "stopped": stopped}

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
            stopped = {from_json(Setting, one, "stopped", beside=("reason",)): one["reason"] for one in values["stopped"]}
            read = {**values, "kit_digest": values["kit"]["sha256"], "stopped": stopped}
            return from_json(cls, read, beside=("format",))
