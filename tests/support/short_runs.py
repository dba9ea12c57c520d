"""Settings that make a run of the quickstart recipe a matter of seconds."""

from __future__ import annotations

from pathlib import Path

from tests.support.source_tree import ROOT

SHORT = (
    "train.epochs=4", "train.evaluate_every=2", "finetune.epochs=2", "search.population=6", "search.generations=2",
    "search.parents=3", "search.mutated=3", "search.crossed=3", "export.calibration_images=64", "profile.seconds=0.2",
    "race=null",
)  # fmt: skip
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"


def shortened(latency_table: Path) -> list[str]:
    """The options that make a run of the quickstart recipe a matter of seconds."""
    settings = [*SHORT, f"profile.table={latency_table}", "export.max_disagreement=0.2"]
    return [word for setting in settings for word in ("--set", setting)]


def write_latency_table(path: Path) -> Path:
    """A stored table for the digits' micro space, as if measured: 0.05 ms and 50 ms per GFLOP."""
    from autoformer.conditions import MeasurementConditions
    from autoformer.cost import count_flops
    from autoformer.profiling.measuring.device import DeviceFacts
    from autoformer.profiling.tables.table import LatencyTable
    from autoformer.space import SearchSpace
    from tests.support.small_spaces import designed

    space = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
    means = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device="a test")
    measured = [(a, 0.05 + 50 * count_flops(a, space) / 1e9) for a in designed(space, 6)]
    LatencyTable.fit(space, means, measured, device=DeviceFacts.collect()).save(path)
    return path


def run_shortened(out: Path, latency_table: Path) -> Path:
    """A short run of the quickstart recipe through the command line."""
    from tests.support.commands import command

    answer = command("run", QUICKSTART, "--out", out, "--quiet", *shortened(latency_table))
    assert answer.code == 0, answer.err
    return out
