"""What is said beside the tables of measurements."""

from __future__ import annotations

import pytest

from autoformer.cli.console import say_not_measured
from autoformer.profiling.profiles.latency import NotMeasured


def test_one_reason_for_many_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    absent, broken = "no GPU here", "the file is damaged"
    say_not_measured(
        [
            NotMeasured("ours", "torch-cuda", absent),
            NotMeasured("ours", "tensorrt", absent),
            NotMeasured("theirs", "onnxruntime-cpu", broken),
            NotMeasured("theirs", "torch-cuda", absent),
            NotMeasured("ours", "torch-cuda", absent),
        ]
    )
    assert capsys.readouterr().err.splitlines() == [
        "not measured: ours, theirs on torch-cuda, tensorrt: no GPU here",
        "not measured: theirs on onnxruntime-cpu: the file is damaged",
    ]
