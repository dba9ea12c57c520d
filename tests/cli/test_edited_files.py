"""JSON that was edited by hand (its digest removed) is one line, whichever command reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoformer.data.ledger import add_reading, read_ledger
from autoformer.data.loading import load_parts, parts_of_record
from autoformer.data.parts import DataConfig
from autoformer.errors import CheckpointError, DataError
from autoformer.files import read_json
from autoformer.profiling.reports.run_folder import Run
from tests.support.commands import command
from tests.support.run_folder import make_run

TEN = [str(number) for number in range(10)]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = read_json(path)
    change(values)
    path.write_text(json.dumps(values))


def test_another_word_for_a_setting_of_a_search_is_named_with_the_known_ones(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    edit(run / "search" / "search.json", lambda values: values["config"].update(choose="dearest"))
    for words in (
        ("describe", run / "search"),
        ("search", "--from", run / "search", "--max-params", "1M"),
        ("report", "build", run),
    ):
        said = command(*words).error
        assert "choose is 'dearest': Input should be 'cheapest' or 'best'" in said
        assert "http" not in said


@pytest.mark.parametrize("classes", ["0123456789", list(range(10)), None, {"0": "a"}, []])
def test_classes_that_are_no_list_of_names_are_refused(classes: object, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    edit(run / "run.json", lambda values: values["data"].update(classes=classes))
    with pytest.raises(CheckpointError, match=r"run.json is damaged \(its classes are not a list of names\)"):
        Run.load(run)


@pytest.mark.parametrize("classes", ["0123456789", list(range(10)), {"0": "a"}])
def test_a_record_of_images_names_its_classes_in_a_list(classes: object) -> None:
    record = load_parts(DataConfig()).record
    assert parts_of_record({**record, "classes": TEN}).classes == tuple(TEN)
    with pytest.raises(DataError, match="the record of data is damaged"):
        parts_of_record({**record, "classes": classes})


@pytest.mark.parametrize("readings", ["none", 3, None, [{"reader": "me"}]])
def test_a_ledger_that_cannot_be_read_is_not_added_to(readings: object, tmp_path: Path) -> None:
    path = make_run(tmp_path / "run") / "test_ledger.json"
    first = read_ledger(path)[0]
    add_reading(first, path)
    assert read_ledger(path)[-1] == first
    path.write_text(json.dumps({"format": "autoformer/test-ledger/1", "readings": readings}))
    before = path.read_text()
    with pytest.raises(CheckpointError, match=r"test_ledger.json is damaged"):
        add_reading(first, path)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("test.json", lambda values: values.update(labels="0123")),
        ("test.json", lambda values: values["guesses"].update({"onnx fp32": [{}]})),
        ("test.json", lambda values: values["guesses"]["finetuned"].pop()),
        ("budget.json", lambda values: values.update(limits=None)),
    ],
)
def test_a_bundle_is_not_made_of_results_that_cannot_be(
    name: str, change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run")
    edit(run / "export" / "manifest.json", lambda values: values.update(data=load_parts(DataConfig()).record))
    edit(run / name, change)
    assert f"{name} is damaged" in command("bundle", run, "--out", tmp_path / "bundle").error
