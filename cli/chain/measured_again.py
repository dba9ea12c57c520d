"""The files of a run's export measured: as its last step but one, and anew once it has finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoformer.cli.chain.recipe import Recipe
from autoformer.files import read_json, sole_worker
from autoformer.profiling.measuring.measure import MeasureConfig
from autoformer.profiling.measuring.verdict import VALID
from autoformer.profiling.profiles.int8_speed import note_int8_speed
from autoformer.profiling.profiles.latency import Profile, profile_until_valid
from autoformer.profiling.reports.run_page import build_report
from autoformer.progress import Progress
from autoformer.temporary import temporary_folder


def profile_files(recipe: Recipe, out: Path, place: Path, progress: Progress) -> Profile:
    """Measures the files of a run's export as its recipe says, into `place`."""
    config = MeasureConfig.lasting(recipe.profile.seconds)
    return profile_until_valid(
        [out / "export"], config=config, batch=recipe.profile.batch, threads=recipe.profile.threads, out=place, progress=progress
    )


def measured_again(recipe: Recipe, out: Path, progress: Progress, say: Callable[[str], None]) -> dict[str, Any]:
    """The report of a finished run after its files were measured anew; the earlier times stay where fewer of these are VALID.

    `say` is told the new times, and which stand.
    """
    with sole_worker(out), temporary_folder("again") as folder:
        fresh = profile_files(recipe, out, folder / "latency.json", progress)
        before = Profile.load(out / "latency.json")
        keeps = _surely(fresh) < _surely(before)
        for line in said_of(fresh, before, keeps=keeps):
            say(line)
        if keeps:
            return read_json(out / "report.json")
        fresh.save(out / "latency.json")
        note_int8_speed(out / "export", fresh.measurements)
        return build_report(out)


def said_of(fresh: Profile, before: Profile, *, keeps: bool) -> list[str]:
    """The new times beside the earlier ones, how fast the machine is now, and which times stand."""
    earlier = {one.name: one.stats.p50_ms for one in before.measurements}
    times = [
        f"{one.name} {one.stats.p50_ms:.3g} ms{f' ({earlier[one.name]:.3g} before)' if one.name in earlier else ''}"
        for one in fresh.measurements
    ]
    pace = fresh.reference.stats.p50_ms / before.reference.stats.p50_ms
    counts = f"{_surely(fresh)} of {len(fresh.measurements)} new times are VALID, {_surely(before)} of the earlier"
    stand = f"the earlier ones stay, since {counts}; try on a quiet machine" if keeps else "the new ones stand"
    return [
        f"measured again: {', '.join(times)}",
        f"the reference network takes {pace:.2f} times as long as then on this machine; {stand}",
    ]


def _surely(profile: Profile) -> int:
    """How many of its files were measured VALID."""
    return sum(one.verdict.level == VALID for one in profile.measurements)
