"""Damaged files of every kind end in one line or in success: no traceback, no dead process, no file outside its folder."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.fuzz_worker import attempt, try_bundle, try_image, try_onnx
from tests.support.fuzzing import SUBJECTS, fuzz, make_originals
from tests.support.mutations import damaged_bytes


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_originals(tmp_path_factory.mktemp("fuzzing") / "originals", exported=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_originals(tmp_path_factory.mktemp("fuzzing") / "exported", exported=True)


@pytest.mark.parametrize(("subject", "numbers"), [(try_onnx, range(3)), (try_bundle, range(4)), (try_image, range(4))])
@pytest.mark.filterwarnings("ignore")  # Pillow remarks on damaged images
def test_a_few_damaged_files_of_each_kind_are_refused_in_one_line_or_used(
    subject: object, numbers: range, originals: Path, tmp_path: Path
) -> None:
    outcomes = []
    for number in numbers:
        (tmp_path / str(number)).mkdir()
        outcomes += subject(originals, tmp_path / str(number), random.Random(number))  # type: ignore[operator]
    assert {"refused"} <= set(outcomes) <= {"refused", "accepted"}


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_hundred_damaged_files_of_each_kind_kill_nothing(subject: str, exported: Path) -> None:
    found = fuzz(subject, 0, 100, exported)
    assert found.failures == {}
    assert found.mutations == 100
    assert min(found.outcomes["refused"], found.outcomes["accepted"]) > 50  # neither whole nor past recognition


def test_the_fuzzing_itself_reports_errors_that_are_not_ours_and_messages_of_several_lines() -> None:
    def foreign() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        attempt(foreign)
    assert attempt(lambda: None) == "accepted"


def test_a_process_that_dies_is_recorded_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker that dies of mutation 3, played by a small program."""
    worker = tmp_path / "tests" / "support"
    worker.mkdir(parents=True)
    (worker / "__init__.py").touch()
    (worker / "fuzz_worker.py").write_text(
        "import json, os, sys\n"
        "first, count = int(sys.argv[2]), int(sys.argv[3])\n"
        "for number in range(first, first + count):\n"
        "    print('begin', number, flush=True)\n"
        "    if number == 3: os.abort()\n"
        "    print(json.dumps({'number': number, 'outcomes': ['refused']}), flush=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = fuzz("onnx", 0, 6, tmp_path)
    assert (found.mutations, found.outcomes) == (6, {"refused": 5, "died": 1})
    assert list(found.failures) == [3]


def test_the_same_number_gives_the_same_damage() -> None:
    whole = bytes(range(256))
    made = [damaged_bytes(whole, random.Random(seed)) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
