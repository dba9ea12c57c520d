"""Edited, damaged and hostile files: each gives one line that names the file, and none reaches a loader, a network or an
allocation that the file's own size does not justify."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from autoformer.cost import Cost
from autoformer.files import read_json
from autoformer.metric import Metric, score
from autoformer.networks.folders import extract
from autoformer.profiling.reports.run_folder import Run
from autoformer.search.candidate import Candidate
from autoformer.search.database import Study
from autoformer.search.record import SearchRecord
from autoformer.tensors import read_metadata, read_tensors, write_tensors
from autoformer.training.state import TrainingState
from tests.support.edited_folders import SPACE, edit, one_line
from tests.support.run_folder import make_run

DEEP = "[" * 200_000 + "]" * 200_000


# --- JSON and tensors --------------------------------------------------------------------------------------------


def test_a_missing_key_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"held": 1}')
    assert read_json(tmp_path / "a.json", "held") == {"held": 1}
    one_line(lambda: read_json(tmp_path / "a.json", "held", "lost"), "a.json lacks 'lost'; it was edited or damaged")


@pytest.mark.parametrize("content", [DEEP, "1" * 5000, "\xff\x00", ""])
def test_what_is_no_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("latin-1"))
    one_line(lambda: read_json(tmp_path / "a.json"), "a.json cannot be read as JSON")


@pytest.mark.parametrize("read", [read_json, read_tensors, read_metadata])
def test_a_file_that_cannot_be_opened_is_not_called_missing(tmp_path: Path, read: Callable[[Path], object]) -> None:
    place = tmp_path / "weights"
    place.mkdir()  # the one kind of file that even root cannot read
    one_line(lambda: read(place), "weights cannot be read", "directory")
    one_line(lambda: read(tmp_path / "absent"), "absent does not exist")


def test_a_header_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_tensors({"w": torch.zeros(1)}, tmp_path / "w.safetensors", [1])  # type: ignore[arg-type]
    one_line(lambda: read_metadata(tmp_path / "w.safetensors"), "w.safetensors", "list")


# --- folders of a run --------------------------------------------------------------------------------------------


def test_a_search_without_a_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text("{}")
    one_line(lambda: SearchRecord.load(tmp_path), "search.json lacks 'format'")


@pytest.mark.parametrize(
    ("keys", "changes"),
    [
        (("result",), {"chosen": 99}),
        (("result",), {"front": ["x"]}),
        (("result",), {"searched": 99}),
        (("result",), {"searched": "all"}),
        (("result",), {"baselines": {"dearest": 99}}),
        (("result",), {"baselines": 3}),
        (("result",), {"candidates": []}),
        (("result",), {"candidates": [{}]}),
        (("result", "candidates", 0, "score"), {"images": 10**12}),
        (("result",), {"metric": "loss"}),
        (("result",), {"labels": "00"}),
        (("result", "candidates", 0), {"guesses": "ff"}),
        (("result", "candidates", 0, "score"), {"value": 0.9}),
        (("result", "candidates", 0), {"architecture": [1]}),
        (("result", "candidates", 0), {"cost": {"params": "many", "flops": 1}}),
    ],
)
def test_a_damaged_search_is_refused(tmp_path: Path, keys: Any, changes: dict[str, Any]) -> None:
    make_run(tmp_path / "run")
    edit(tmp_path / "run" / "search" / "search.json", *keys, **changes)
    one_line(lambda: SearchRecord.load(tmp_path / "run" / "search"), "search.json")


def test_an_empty_record_of_a_supernet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoformer.networks.folders.load_supernet", lambda _: None)
    (tmp_path / "supernet.json").write_text("{}")
    one_line(lambda: extract(tmp_path, SPACE.smallest, tmp_path / "out"), "supernet.json lacks 'data'")


@pytest.mark.parametrize(
    ("name", "keys", "changes"),
    [
        ("test.json", (), {"labels": [99] * 540}),
        ("steps.json", (), {"seconds": {"train": "long"}}),
        ("run.json", ("data", "parts"), {"test": {"images": 0, "digest": ""}}),
        ("run.json", ("data",), {"preprocessing": {}}),
        ("supernet.json", ("history", 0), {"loss": float("nan")}),
        ("subnet.json", ("history", 0, "scores", "network"), {"images": 0}),
        ("run.json", ("recipe",), {"metric": "loss"}),
        ("latency.json", ("measurements", 0, "stats"), {"p50_ms": 0.01}),
        ("latency.json", ("reference",), {"samples_ms": ["a"]}),
    ],
)
def test_a_report_names_the_file_that_cannot_be_right(
    tmp_path: Path, name: str, keys: tuple[Any, ...], changes: dict[str, Any]
) -> None:
    run = make_run(tmp_path / "run")
    edit(next(path for path in run.rglob(name)), *keys, **changes)
    one_line(lambda: Run.load(run), name)


@pytest.mark.parametrize(
    "name", ["run.json", "supernet.json", "search.json", "subnet.json", "latency.json", "test.json", "steps.json"]
)
def test_an_empty_file_of_a_run_is_named_with_the_key_it_lacks(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run")
    next(path for path in run.rglob(name)).write_text("{}")
    one_line(lambda: Run.load(run), f"{name} lacks 'format'")


# --- the study of a search ---------------------------------------------------------------------------------------


def candidate(number: int, predictions: NDArray[np.int64], metric: Metric = "top1") -> Candidate:
    """Scored on images of class 1."""
    return Candidate(
        number=number, generation=0, architecture=SPACE.smallest, cost=Cost(params=1, flops=1), predictions=predictions,
        score=score(predictions, np.ones_like(predictions), metric),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("damage", [b"no database at all, only text " * 40, None])
def test_a_damaged_study_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "study.db"
    Study(f"sqlite:///{path}", "s").add(candidate(0, np.ones(9, np.int64)))
    path.write_bytes(damage or path.read_bytes()[:6000])
    one_line(lambda: Study(f"sqlite:///{path}", "s").evaluations(), f"{path} cannot be read as a study", "move it away")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("stored", [None, "{", "{}", '{"guesses": 3, "score": {}}', DEEP])
def test_a_damaged_evaluation_in_a_study_is_refused(tmp_path: Path, stored: str | None) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    foreign = optuna.create_study(study_name="s", storage=url, direction="maximize")
    trial = foreign.ask()
    if stored is not None:
        trial.set_user_attr("candidate", stored)
    foreign.tell(trial, 0.5)
    one_line(lambda: Study(url, "s").evaluations(), "study.db cannot be read as a study")


# --- checkpoints of a training -----------------------------------------------------------------------------------


def trained(folder: Path) -> TrainingState:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = TrainingState(network, optimizer, folder, keep=3, steps_per_epoch=10)
    state.step, state.history = 10, [{"loss": 1.0}]
    return state


NEXT = {"step": 20, "history": [{}, {}]}


@pytest.mark.parametrize(
    ("changes", "extra"),
    [
        (None, {}),
        ({"step": "20", "history": [{}, {}]}, {}),
        ({"step": 20, "history": {}}, {}),
        ({"step": 20, "history": [{}, 3]}, {}),
        ({"step": 20, "history": [{}]}, {}),
        ({**NEXT, "groups": []}, {}),
        ({**NEXT, "groups": [{}]}, {}),
        ({**NEXT, "epoch_sums": {"loss": "x"}}, {}),
        ({**NEXT, "best": {"score": 1}}, {}),
        ({**NEXT, "scaler": {"scale": 1}}, {}),
        (NEXT, {"network.weight": torch.zeros(3, 3)}),
        (NEXT, {"average.weight": torch.zeros(2, 2)}),
        (NEXT, {"other": torch.zeros(2, 2)}),
        (NEXT, {"optimizer.7.step": torch.zeros(())}),
        (NEXT, {"optimizer.x": torch.zeros(())}),
        (NEXT, {"optimizer.0.exp_avg": torch.zeros(5)}),
        (NEXT, {"optimizer.0.other": torch.zeros(())}),
        ({**NEXT, "optimizer": {}}, {}),
        ({**NEXT, "optimizer": 3}, {}),
    ],
)
def test_a_foreign_checkpoint_is_passed_over(tmp_path: Path, changes: Any, extra: dict[str, torch.Tensor]) -> None:
    trained(tmp_path).save()
    first = tmp_path / "step-000000010.safetensors"
    metadata = None if changes is None else {**read_metadata(first), **changes}
    write_tensors({**read_tensors(first), **extra}, tmp_path / "step-000000020.safetensors", metadata)
    fresh = trained(tmp_path)
    fresh.step, fresh.history = 0, []
    with pytest.warns(UserWarning, match=r"step-000000020.*going on from step-000000010\.safetensors instead"):
        fresh.load_newest()
    assert (fresh.step, fresh.epoch, fresh.history) == (10, 1, [{"loss": 1.0}])
    first.unlink()
    one_line(trained(tmp_path).load_newest, "no checkpoint in", "step-000000020.safetensors")
