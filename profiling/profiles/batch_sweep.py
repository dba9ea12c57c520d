"""One network at several batches: how the time of a run, and the images it gives per second, grow with the batch.

Every batch is a profile of its own, with the reference network beside it. A sweep doubles the batch until the throughput of no
network grows by `GAIN` any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from autoformer.errors import AutoformerError, CheckpointError, MeasurementError
from autoformer.files import read_document, refuse_existing_file, write_json
from autoformer.profiling.profiles.latency import FORMAT as PROFILE_FORMAT
from autoformer.profiling.profiles.latency import WRITES, Profile
from autoformer.records import to_json

FORMAT = "autoformer/batches/1"
GAIN = 0.05  # of throughput, from one batch to its double, below which a sweep ends
LARGEST = 1024


@dataclass(frozen=True, kw_only=True)
class BatchSweep:
    """The profiles by rising batch, and why there is none of a larger one."""

    profiles: tuple[Profile, ...]
    ended: str

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches that were measured."""
        return tuple(profile.measurements[0].batch for profile in self.profiles)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        throughput = {
            f"{name}, {backend}": {str(batch): images for batch, images in found.items()}
            for (name, backend), found in throughputs(self.profiles).items()
        }
        return {
            "format": FORMAT,
            "batches": list(self.batches),
            "images_per_s": throughput,
            "ended": self.ended,
            "profiles": to_json(self.profiles),
        }

    def save(self, path: Path) -> None:
        """Writes the JSON file, raw samples included, whole or not at all."""
        write_json(self.to_dict(), path)


def throughputs(profiles: Sequence[Profile]) -> dict[tuple[str, str], dict[int, float]]:
    """Images per second at the median, by name and backend, by batch."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for profile in profiles:
        for taken in profile.measurements:
            found.setdefault((taken.name, taken.backend), {})[taken.batch] = taken.images_per_s
    return found


def measure_batches(measure_one: Callable[[int], Profile], batches: Sequence[int] | None, out: Path | None = None) -> BatchSweep:
    """Calls `measure_one` with each of `batches`, or with 1, 2, 4, … while the throughput grows; writes to `out` if given.

    Raises `MeasurementError` for batches that do not rise from 1 or more, and whatever `measure_one` raises at the first batch. A
    larger batch that cannot be measured ends the sweep.
    """
    if batches is not None and (not batches or batches[0] < 1 or any(b <= a for a, b in pairwise(batches))):
        raise MeasurementError(f"batches {', '.join(map(str, batches))} do not rise from 1 or more")
    if out is not None:
        refuse_existing_file(out)
    profiles: list[Profile] = []
    ended = "all batches that were asked for were measured"
    for batch in batches or _doubled():
        try:
            profiles.append(measure_one(batch))
        except (AutoformerError, MemoryError) as error:
            if not profiles:
                raise
            ended = f"batch {batch} could not be measured: {str(error) or 'out of memory'}"
            break
        if batches is None and len(profiles) > 1 and (gain := best_gain(profiles[-2], profiles[-1])) < GAIN:
            more = f" by more than {100 * gain:.2g} %" if gain > 0 else ""
            ended = f"from batch {batch // 2} to {batch} no throughput grew{more}"
            break
    else:
        if batches is None:
            ended = f"batch {LARGEST} is the largest that is tried"
    sweep = BatchSweep(profiles=tuple(profiles), ended=ended)
    if out is not None:
        sweep.save(out)
    return sweep


def best_gain(smaller: Profile, larger: Profile) -> float:
    """The largest relative growth of throughput from one profile to the next over the networks of both."""
    before = {(taken.name, taken.backend): taken.images_per_s for taken in smaller.measurements}
    gains = [
        taken.images_per_s / before[key] - 1 for taken in larger.measurements if (key := (taken.name, taken.backend)) in before
    ]
    return max(gains, default=0.0)


def load_profiles(path: Path) -> tuple[Profile, ...]:
    """The profile of a file of `profile run`, or all of one with several batches. Raises `CheckpointError` naming it."""
    values = read_document(path, PROFILE_FORMAT, FORMAT, expected=WRITES)
    if values["format"] == PROFILE_FORMAT:
        return (Profile.from_dict(values, path),)
    if not isinstance(values.get("profiles"), list) or not values["profiles"]:
        raise CheckpointError(f"{path} lists no profile; it was edited or damaged, profile again")
    return tuple(Profile.from_dict(entry, path) for entry in values["profiles"])


def _doubled() -> Sequence[int]:
    found = [1]
    while found[-1] < LARGEST:
        found.append(2 * found[-1])
    return found
