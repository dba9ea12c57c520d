"""Settings that make a run of the quickstart recipe a matter of seconds."""

from __future__ import annotations

from pathlib import Path

from tests.support.source_tree import ROOT

SHORT = (
    "train.epochs=4", "train.evaluate_every=2", "finetune.epochs=2", "search.population=6", "search.generations=2",
    "search.parents=3", "search.mutated=3", "search.crossed=3", "export.calibration_images=64", "profile.seconds=0.2",
)  # fmt: skip
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"


def shortened(latency_table: Path) -> list[str]:
    """The options that make a run of the quickstart recipe a matter of seconds."""
    settings = [*SHORT, f"profile.table={latency_table}", "export.max_disagreement=0.2"]
    return [word for setting in settings for word in ("--set", setting)]
