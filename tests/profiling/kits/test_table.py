"""What a device sends back becomes a table, or is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoformer.architecture import Architecture
from autoformer.cost import count_flops
from autoformer.errors import CheckpointError, MeasurementError
from autoformer.files import json_digest
from autoformer.profiling.kits.kit import Kit
from autoformer.profiling.kits.measuring import head_of, measure_setting
from autoformer.profiling.kits.result import KitResult
from autoformer.profiling.kits.rows import Rows, Setting
from autoformer.profiling.kits.table import chosen_setting, table_of
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import SearchSpace
from tests.support.commands import command
from tests.support.kits import FACTS, SPACE, ScriptedRuntime, small_kit

SETTING = Setting("fp32", 1)


def known(architecture: Architecture, build: int, visit: int) -> float:
    """0.2 ms and 50 ms per GFLOP; a second build takes 1 % longer; the device slows down by 2 % a round."""
    return (0.2 + 50 * count_flops(architecture, SPACE) / 1e9) * 1.01**build * 1.02**visit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kits") / "kit"
    small_kit(place, count=6, batches=(1, 4))
    return place


@pytest.fixture(scope="module")
def result(folder: Path) -> KitResult:
    kit, runtime = Kit.load(folder), ScriptedRuntime(known)
    rows = Rows.open(folder.parent / "rows.jsonl", head_of("digest", runtime, FACTS))
    stopped = {SETTING: measure_setting(kit, runtime, SETTING, rows)}
    return KitResult.of(folder, kit, rows, FACTS, stopped, {"fp16, batch 1": "no half precision here"})


def test_known_times_give_their_own_formula(result: KitResult) -> None:
    table = table_of(result, SETTING)
    # Six rounds: common drift is taken out to their middle. Half the networks have a second build, a geometric mean of 1 %.
    middle = 1.02**2.5
    for network in table.networks:
        twice = 1.01**0.5 if network.instances_ms else 1.0
        assert network.measured_ms == pytest.approx(known(network.architecture, 0, 0) * middle * twice, rel=2e-3)
        assert network.low_ms is not None
        assert network.high_ms is not None
        assert network.low_ms <= network.measured_ms * 1.0001
        assert network.high_ms >= network.measured_ms * 0.9999
    assert [len(network.instances_ms) for network in table.networks].count(2) == 3
    assert table.rebuilding == pytest.approx(math.log(1.01) / math.sqrt(2), rel=2e-2)
    assert table.space == SPACE
    assert str(table.measurement_conditions) == "p50, batch 1, fp32, tensorrt, Orin"
    assert table.device.gpus[0].name == "Orin"
    assert "6 networks; every median is known" in table.stopped


def test_the_interval_is_that_of_the_rounds_medians(folder: Path, tmp_path: Path) -> None:
    shaken = [0.97, 1.03, 1.0, 1.0, 0.99, 1.02]  # of the smallest network, round by round; the others stand still

    def times(architecture: Architecture, build: int, visit: int) -> float:
        return 2.0 * (shaken[visit % 6] if architecture == SPACE.smallest else 1.0 + count_flops(architecture, SPACE) / 1e9)

    kit, runtime = Kit.load(folder), ScriptedRuntime(times)
    rows = Rows.open(tmp_path / "rows.jsonl", head_of("digest", runtime, FACTS))
    result = KitResult.of(folder, kit, rows, FACTS, {SETTING: measure_setting(kit, runtime, SETTING, rows)}, {})
    smallest = table_of(result, SETTING).networks[0]
    # Of eight medians (the most rounds; the shaking begins again) the interval reaches from the smallest to the largest.
    assert (smallest.low_ms, smallest.high_ms) == pytest.approx((2 * 0.97, 2 * 1.03), rel=1e-3)


def test_a_result_survives_its_file(result: KitResult, tmp_path: Path) -> None:
    result.save(tmp_path / "result.json")
    assert table_of(KitResult.load(tmp_path / "result.json"), SETTING).networks == table_of(result, SETTING).networks
    assert KitResult.load(tmp_path / "result.json") == result


def test_the_command_makes_the_table_a_search_reads(result: KitResult, tmp_path: Path) -> None:
    result.save(tmp_path / "result.json")
    answer = command("profile", "table", "--from", tmp_path / "result.json", "--out", tmp_path / "orin.json", "--json")
    assert answer.code == 0, answer.err
    table = LatencyTable.load(tmp_path / "orin.json")
    assert answer.json["kind"] == table.kind == "constant+flops"
    assert table.predict(SPACE.middle) == pytest.approx(known(SPACE.middle, 0, 0) * 1.02**2.5 * 1.0025, rel=5e-3)


def test_a_result_of_another_space_is_refused(result: KitResult, tmp_path: Path) -> None:
    result.save(tmp_path / "result.json")
    other = SearchSpace.preset("micro", image_size=16, in_chans=1, num_classes=10)
    with pytest.raises(MeasurementError, match="which is another than space 'micro' given here"):
        table_of(result, SETTING, other)
    answer = command("profile", "table", "--from", tmp_path / "result.json", "--space", "tiny", "--out", tmp_path / "t.json")
    assert "another than space 'tiny' given here" in answer.error
    assert not (tmp_path / "t.json").exists()


def test_an_edited_or_foreign_result_is_refused(result: KitResult, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    result.save(path)
    values = json.loads(path.read_text())
    values["rows"][-1]["samples_us"][0] *= 0.5
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="not as the device wrote it"):
        KitResult.load(path)
    path.write_text(json.dumps({"format": "autoformer/bench/1"}))
    with pytest.raises(CheckpointError, match=r"expected 'autoformer/kit-result/1': what a kit's board\.pyz measure writes"):
        KitResult.load(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        KitResult.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[-1].pop("samples_us"),
        lambda rows: rows[-1].update(samples_us=["fast"]),
        lambda rows: rows[-1].update(samples_us=[]),
        lambda rows: rows[-1].update(network=["a"]),
        lambda rows: rows[-1].update(round="last"),
        lambda rows: rows[-1].update(conditions={"cores": 2}),
        lambda rows: rows[-1].update(conditions=7),
        lambda rows: rows.pop(),
        lambda rows: rows.clear(),
        lambda rows: rows.append(7),
    ],
)
def test_rows_that_cannot_be_right_are_refused_whatever_the_digest_says(
    change: Callable[[list[Any]], object], result: KitResult, tmp_path: Path
) -> None:
    values = result.to_dict()
    values["rows"] = json.loads(json.dumps(values["rows"]))
    change(values["rows"])
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**values, "sha256": json_digest(values)}))
    answer = command("profile", "table", "--from", path, "--out", tmp_path / "t.json")
    assert "is damaged" in answer.error
    assert "copy it again from the device" in answer.error


def test_a_measured_kit_is_a_row_of_what_ran_where_and_belongs_to_no_run(result: KitResult, tmp_path: Path) -> None:
    result.save(tmp_path / "result.json")
    (row,) = command("report", "import", tmp_path / "result.json", "--json").json
    assert row["runtime"] == "TensorRT 10.3.0"
    assert row["device"] == "Orin"
    assert row["what"] == "a kit of 6 networks of space micro: fp32, batch 1"
    refused = command("report", "import", tmp_path / "result.json", "--run", tmp_path)
    assert "is of a kit, which belongs to no run" in refused.error


def test_which_setting_is_meant_must_be_clear(result: KitResult) -> None:
    assert chosen_setting(result) == SETTING
    with pytest.raises(MeasurementError, match="holds --precision fp32 --batch 1; fp16, batch 1 was not measured: no half"):
        chosen_setting(result, precision="fp16")
    with pytest.raises(MeasurementError, match="was not measured on this device"):
        result.measurements(Setting("fp32", 4))
