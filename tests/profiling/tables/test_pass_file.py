"""A table's measurements outlive the process that made them."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoformer.errors import CheckpointError
from autoformer.profiling.measuring import drift
from autoformer.profiling.measuring.drift import measure_together
from autoformer.profiling.measuring.measure import MeasureConfig, measure
from autoformer.profiling.tables.measuring import PassFile
from tests.support.fakes import ScriptedBackend, ScriptedClock
from tests.support.kits import FACTS

QUICK = MeasureConfig(warmup_s=0, warmup_max_s=0.1, rounds=2, lead_in_runs=0, min_runs=12, min_s=0)


class Backends:
    """Two networks of 1 and 2 ms on a clock of their own, and how often they were measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock, cpu = ScriptedClock(), ScriptedClock()
        self.passes = 0
        self.networks = {
            name: [ScriptedBackend(clock, lambda k, ms=ms: ms + 0.001 * (k % 3), cpu_clock=cpu)]  # type: ignore[misc]
            for name, ms in (("a", 1.0), ("b", 2.0))
        }

        def measured(backends, config, *, device, sensors, progress):  # type: ignore[no-untyped-def]
            self.passes += 1
            return measure(backends, config, clock=clock, cpu_clock=cpu, device=FACTS)

        monkeypatch.setattr(drift, "measure", measured)


def test_a_pass_that_is_on_disk_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends, file = Backends(monkeypatch), PassFile(tmp_path / "passes.jsonl", ["a", "b"])
    whole = list(measure_together(backends.networks, QUICK, 3, keep=file.append))
    assert backends.passes == 3
    again = list(measure_together(backends.networks, QUICK, 3, earlier=file.read(), keep=file.append))
    assert backends.passes == 3
    assert again == whole
    assert len(file.read()) == 3


def test_a_process_killed_while_it_wrote_loses_that_pass_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends, file = Backends(monkeypatch), PassFile(tmp_path / "passes.jsonl", ["a", "b"])
    for _ in measure_together(backends.networks, QUICK, 2, keep=file.append):
        pass
    content = file.path.read_bytes()
    file.path.write_bytes(content[:-20])
    assert len(file.read()) == 1
    for _ in measure_together(backends.networks, QUICK, 2, earlier=file.read(), keep=file.append):
        pass
    assert backends.passes == 3
    assert len(file.read()) == 2


def test_passes_of_another_question_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends, file = Backends(monkeypatch), PassFile(tmp_path / "passes.jsonl", ["a", "b"])
    list(measure_together(backends.networks, QUICK, 1, keep=file.append))
    assert PassFile(tmp_path / "passes.jsonl", ["a", "c"]).read() == []
    file.path.write_bytes(b"{half\n" + file.path.read_bytes())
    with pytest.raises(CheckpointError, match=r"line 1 of .* is damaged"):
        file.read()
