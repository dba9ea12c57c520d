"""Every value of every JSON file of a finished run, changed one at a time: the report is written or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoformer.errors import AutoformerError
from autoformer.profiling.reports.content import content
from autoformer.profiling.reports.run_folder import Run
from tests.support.run_folder import make_run

Place = tuple[str | int, ...]
REMOVED = object()
OTHERS: tuple[Any, ...] = (REMOVED, None, [], {}, "x", -1, float("nan"))
DEPTH = 5


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where something stands in a JSON value: every key of objects, the first entry of lists."""
    yield place
    if len(place) < DEPTH and isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*place, key))
    elif len(place) < DEPTH and isinstance(value, list) and value:
        yield from places(value[0], (*place, 0))


def changed(value: Any, place: Place, new: Any) -> Any:
    """A copy of `value` with `new` at `place`, or with nothing there."""
    if not place:
        return None if new is REMOVED else new
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    if new is REMOVED:
        del inner[place[-1]]
    else:
        inner[place[-1]] = new
    return copy


@pytest.mark.slow
def test_no_single_change_of_a_runs_files_ends_in_a_traceback(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    files = sorted((tmp_path / "run").rglob("*.json"))
    refused, failures = 0, []
    for file in files:
        text = file.read_text()
        for place in places(json.loads(text)):
            for new in OTHERS:
                file.write_text(json.dumps(changed(json.loads(text), place, new)))
                try:
                    content(Run.load(tmp_path / "run"))
                except AutoformerError as error:
                    refused += 1
                    if "\n" in str(error):
                        failures.append(f"{file.name} {place}: several lines")
                except Exception as error:
                    failures.append(f"{file.name} {place} {new!r}: {type(error).__name__} {error}")
        file.write_text(text)
    assert len(files) > 5
    assert refused > 500
    assert not failures, "\n".join(failures)
