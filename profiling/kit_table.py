"""The latency table of what a device sent back."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import geometric_mean

from autoformer.errors import MeasurementError
from autoformer.profiling.kit_measurement import Setting
from autoformer.profiling.kit_result import KitResult
from autoformer.profiling.latency_table import LatencyTable
from autoformer.profiling.measure import Measurement
from autoformer.profiling.statistics import INVALID, UNSTABLE, VALID, interval_of
from autoformer.space import SearchSpace

LEVELS = (VALID, UNSTABLE, INVALID)


def chosen_setting(result: KitResult, precision: str | None = None, batch: int | None = None) -> Setting:
    """The one setting of the result that is meant. Raises `MeasurementError` naming all there are where it is not clear."""
    fits = [setting for setting in result.stopped if precision in (None, setting.precision) and batch in (None, setting.batch)]
    if len(fits) != 1:
        have = "; ".join(f"--precision {setting.precision} --batch {setting.batch}" for setting in result.stopped)
        missing = "".join(f"; {setting} was not measured: {reason}" for setting, reason in result.not_measured.items())
        raise MeasurementError(f"a table is of one precision and batch; the result holds {have}{missing}")
    return fits[0]


def table_of(result: KitResult, setting: Setting, space: SearchSpace | None = None) -> LatencyTable:
    """Fits one setting of a result. Builds of one network count as their geometric mean.

    Raises `MeasurementError` when `space` is given and another than the kit's, or as `LatencyTable.fit` does.
    """
    measured = SearchSpace.from_dict(result.kit.space)
    if space is not None and space != measured:
        raise MeasurementError(
            f"the kit holds networks of space {measured.name!r}, which is another than space {space.name!r} given here; make "
            "a kit of this space"
        )
    taken, statistic = result.measurements(setting), result.kit.statistic
    networks = [network for network in result.kit.networks if (network.name, 0) in taken]
    builds = [[taken[key] for key in sorted(taken) if key[0] == network.name] for network in networks]
    times = [[one.stats.value(statistic) for one in own] for own in builds]
    return LatencyTable.fit(
        measured,
        builds[0][0].qualification(statistic),
        [(network.architecture, geometric_mean(own)) for network, own in zip(networks, times, strict=True)],
        device=result.device,
        verdicts=[max((one.verdict.level for one in own), key=LEVELS.index) for own in builds],
        intervals=[_interval(own, statistic) for own in builds],
        instances=[own if len(own) > 1 else () for own in times],
        stopped=f"the kit holds {len(networks)} networks; {result.stopped[setting]}",
    )


def _interval(builds: Sequence[Measurement], statistic: str) -> tuple[float, float] | None:
    """That of the geometric mean, as wide as those of the builds are on average."""
    bounds = [interval_of(one.samples_ms, statistic) for one in builds]
    known = [bound for bound in bounds if bound is not None]
    if len(known) < len(bounds):
        return None
    return geometric_mean([low for low, _ in known]), geometric_mean([high for _, high in known])
