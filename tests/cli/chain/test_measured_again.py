"""What is said after the files of a finished run were timed anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autoformer.cli.chain.measured_again import said_of
from autoformer.profiling.measuring.verdict import Verdict
from autoformer.profiling.profiles.latency import Profile
from tests.support.run_folder import make_run


def test_new_times_stand_beside_the_earlier_ones_and_which_of_them_count_is_said(tmp_path: Path) -> None:
    before = Profile.load(make_run(tmp_path / "run", samples_ms=(2.0, 2.002) * 500) / "latency.json")
    fresh = Profile.load(make_run(tmp_path / "other", samples_ms=(1.0, 1.002) * 500) / "latency.json")
    first, second = said_of(fresh, before, keeps=False)
    assert first.startswith("measured again: model.fp32.onnx (onnxruntime-cpu) 1 ms (2 before)")
    assert second == "the reference network takes 1.00 times as long as then on this machine; the new ones stand"
    shaky = replace(
        fresh, measurements=tuple(replace(one, verdict=Verdict("UNSTABLE", ("drift",))) for one in fresh.measurements)
    )
    count = len(fresh.measurements)
    assert said_of(shaky, before, keeps=True)[1].endswith(
        f"the earlier ones stay, since 0 of {count} new times are VALID, {count} of the earlier; try on a quiet machine"
    )
