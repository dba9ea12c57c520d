"""The latency table of what a target device sent back."""

from __future__ import annotations

from statistics import median

from autoformer.errors import MeasurementError
from autoformer.profiling.kits.result import KitResult
from autoformer.profiling.kits.rows import Setting
from autoformer.profiling.measuring.drift import as_one
from autoformer.profiling.measuring.measure import Measurement
from autoformer.profiling.measuring.order_statistics import interval_of
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import SearchSpace


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
    one = [as_one(network.name, [taken[key] for key in sorted(taken) if key[0] == network.name]) for network in networks]
    return LatencyTable.fit(
        measured,
        one[0].measurement_conditions(statistic),
        [(network.architecture, found.stats.value(statistic)) for network, found in zip(networks, one, strict=True)],
        device=result.device,
        verdicts=[found.verdict.level for found in one],
        intervals=[interval_over_rounds(found, statistic) for found in one],
        instances=[found.instances_ms if network.builds > 1 else () for network, found in zip(networks, one, strict=True)],
        stopped=f"the kit holds {len(networks)} networks; {result.stopped[setting]}",
    )


def interval_over_rounds(found: Measurement, statistic: str) -> tuple[float, float] | None:
    """The 95 % interval of a median from the medians of its rounds, each of which opened the network anew: wider and truer than
    one from all samples, which follow each other within a round. Of other statistics the samples' own.
    """
    if statistic != "p50":
        return interval_of(found.samples_ms, statistic)
    medians, start = [], 0
    for runs in found.round_runs:
        medians.append(median(found.samples_ms[start : start + runs]))
        start += runs
    return interval_of(medians, "p50")
