"""Batches measured one after the other, on profiles whose throughput is known, and once for real."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoformer.errors import CheckpointError, MeasurementError
from autoformer.profiling.profiles.batch_sweep import BatchSweep, load_profiles, measure_batches
from autoformer.profiling.profiles.latency import Profile
from tests.support.batch_sweeps import profile


def test_a_sweep_ends_when_throughput_grows_by_less_than_five_percent() -> None:
    # Images per second at batch 1, 2, 4, 8: 500, 800, 1000, 1040 (4 % more)
    times = {1: 2.0, 2: 2.5, 4: 4.0, 8: 8 / 1.04}
    sweep = measure_batches(lambda batch: profile(batch, times[batch]), None)
    assert sweep.batches == (1, 2, 4, 8)
    assert sweep.ended == "from batch 4 to 8 no throughput grew by more than 4 %"
    found = sweep.to_dict()["images_per_s"]["a, torch-cpu"]
    assert found == {"1": 500, "2": 800, "4": 1000, "8": pytest.approx(1040)}


def test_batches_that_were_asked_for_are_all_measured(tmp_path: Path) -> None:
    sweep = measure_batches(lambda batch: profile(batch, float(batch)), [1, 3, 8], tmp_path / "sweep.json")
    assert sweep.batches == (1, 3, 8)
    assert load_profiles(tmp_path / "sweep.json") == sweep.profiles


def test_a_batch_that_does_not_fit_ends_the_sweep_and_keeps_what_was_measured() -> None:
    def measured(batch: int) -> Profile:
        if batch == 4:
            raise MemoryError
        return profile(batch, 1.0)

    sweep = measure_batches(measured, None)
    assert sweep.batches == (1, 2)
    assert sweep.ended == "batch 4 could not be measured: out of memory"


def test_what_cannot_be_measured_at_all_is_an_error() -> None:
    def measured(batch: int) -> Profile:
        raise MeasurementError("nothing could be measured")

    with pytest.raises(MeasurementError, match="nothing could be measured"):
        measure_batches(measured, None)


@pytest.mark.parametrize("wrong", [[], [0, 1], [2, 1], [1, 1]])
def test_batches_rise_from_one(wrong: list[int]) -> None:
    with pytest.raises(MeasurementError, match="do not rise"):
        measure_batches(lambda batch: profile(batch, 1.0), wrong)


def test_a_plain_profile_is_read_as_one_of_several_and_other_files_are_refused(tmp_path: Path) -> None:
    one = profile(1, 2.0)
    one.save(tmp_path / "one.json")
    assert load_profiles(tmp_path / "one.json") == (one,)
    (tmp_path / "other.json").write_text('{"format": "other"}')
    with pytest.raises(CheckpointError, match="'other'"):
        load_profiles(tmp_path / "other.json")
    damaged = BatchSweep(profiles=(one,), ended="").to_dict()
    damaged["profiles"][0]["measurements"][0]["samples_ms"][0] = -1.0
    (tmp_path / "damaged.json").write_text(json.dumps(damaged))
    with pytest.raises(CheckpointError, match=r"damaged\.json"):
        load_profiles(tmp_path / "damaged.json")


def test_the_attempt_of_a_profile_is_kept(tmp_path: Path) -> None:
    replace(profile(1, 2.0), attempt=3).save(tmp_path / "one.json")
    assert load_profiles(tmp_path / "one.json")[0].attempt == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda taken: taken.update(settings="fast"),
        lambda taken: taken.update(settings={"mode": 7}),
        lambda taken: taken.update(cpu_stats={}),
        lambda taken: taken["verdict"].update(level="FINE"),
        lambda taken: taken["device"].update(isa=[7]),
        lambda taken: taken["device"].update(load_average="low"),
        lambda taken: taken["device"].update(versions={"torch": {}}),
    ],
)
def test_a_profile_whose_words_cannot_be_right_is_refused(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    values = json.loads(json.dumps(profile(1, 10.0).to_dict()))
    change(values["measurements"][0])
    with pytest.raises(CheckpointError, match="is damaged"):
        Profile.from_dict(values, tmp_path / "a.json")
