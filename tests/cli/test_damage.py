"""One flipped bit in any file of a run is refused in one line, recovered from with a warning, or without any effect."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.support.commands import command
from tests.support.damage import Outcome, Place, Table, Use, damage_everything
from tests.support.damaged_runs import draw_digit
from tests.support.short_runs import QUICKSTART, shortened


@pytest.mark.slow
def test_a_flip_in_every_kind_of_file_of_runs_finished_and_not_deliver_nothing_else(
    finished_run: Path, latency_table: Path, tmp_path: Path
) -> None:
    table = damage_everything(1, tmp_path, made=(finished_run, latency_table))
    print(table)
    assert table.faults == []
    outcomes = table.total
    assert len(table.outcomes) > 40
    assert outcomes[Outcome.REFUSED] > outcomes.total() / 2
    assert outcomes[Outcome.WARNED] > 0


@pytest.mark.filterwarnings("ignore")
def test_a_few_flips_in_what_a_prediction_is_made_of_are_refused_or_without_effect(finished_run: Path, tmp_path: Path) -> None:
    for folder in ("export", "finetuned"):
        shutil.copytree(finished_run / folder, tmp_path / "whole" / folder)
    draw_digit(tmp_path / "digit.png")
    uses = [Use(("predict", f"@{folder}", tmp_path / "digit.png", "--json")) for folder in ("export", "finetuned")]
    place, table = Place(tmp_path / "whole", tmp_path / "work", uses), Table()
    place.observe()
    table.damage(place, 2, random.Random(1), "")
    assert table.faults == []
    assert {" export/manifest.json", " export/model.fp32.onnx", " finetuned/model.safetensors"} <= set(table.outcomes)
    assert table.total[Outcome.REFUSED] > table.total.total() / 2


def test_what_is_delivered_otherwise_without_a_word_is_found(tmp_path: Path) -> None:
    (tmp_path / "whole" / "run").mkdir(parents=True)
    (tmp_path / "whole" / "run" / "report.json").write_text('{"chosen": 123456789}')  # as by hand: without its digest
    use = Use(("describe", "@run", "--json"))
    place, table = Place(tmp_path / "whole", tmp_path / "work", [use]), Table()
    place.observe()
    table.damage(place, 15, random.Random(0), "by hand")
    assert table.total[Outcome.OTHER] == len(table.faults) > 0, str(table)


@pytest.mark.parametrize("file", ["export/model.fp32.onnx", "finetuned/model.safetensors", "test.json", "search/search.json"])
def test_a_finished_run_is_not_called_so_with_a_damaged_file(
    finished_run: Path, latency_table: Path, tmp_path: Path, file: str
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    content = bytearray((run / file).read_bytes())
    content[len(content) // 2] ^= 1
    (run / file).write_bytes(content)
    answer = command("run", QUICKSTART, "--out", run, "--quiet", *shortened(latency_table))
    assert Path(file).name in answer.error
    assert (run / file).read_bytes() == content
