"""What MLflow, Weights & Biases and TensorBoard are told of a training.

Against strict stand-ins everywhere, and against MLflow's own file store where MLflow is installed.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from autoformer.cli.options import TrackerName as Offered
from autoformer.data.parts import DataParts
from autoformer.errors import AutoformerWarning, MissingPackageError, StorageError
from autoformer.networks.supernet import Supernet
from autoformer.tensors import tensors_digest
from autoformer.training.trackers import (
    TRACKERS,
    Ending,
    Mlflow,
    TensorBoard,
    Told,
    Tracker,
    TrackerName,
    Wandb,
    flat,
    tracked,
    trackers_of,
)
from autoformer.training.trainer import Surroundings, Trainer
from tests.support.fake_trackers import MlflowServer, WandbServer
from tests.support.trainings import QUICK, dying_at, trainer_of

EVERY_5 = QUICK.model_copy(update={"log_every": 5})  # 16 steps an epoch


@pytest.fixture(params=["strict stand-in", "file store"])
def mlflow(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, with nothing stored."""
    if request.param == "strict stand-in":
        monkeypatch.setitem(sys.modules, "mlflow", MlflowServer().module())
    else:
        pytest.importorskip("mlflow", reason="mlflow is not installed")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return importlib.import_module("mlflow")


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> WandbServer:
    server = WandbServer()
    monkeypatch.setitem(sys.modules, "wandb", server.module())
    return server


def record(step: int, event: str = "step") -> dict[str, Any]:
    return {"event": event, "step": step, "epoch": 1, "loss": 1 / step, "seconds": 1.0, "skipped": 0}


def tell(trackers: Sequence[Tracker], told: Told, *steps: int | BaseException) -> None:
    """Tells trackers of a training that logs these steps, or ends with an exception."""
    with tracked(trackers, told) as hooks:
        for step in steps:
            if isinstance(step, BaseException):
                raise step
            for hook in hooks:
                hook(record(step))


def with_trackers(parts: DataParts, folder: Path, *trackers: Tracker, network: Supernet | None = None) -> Trainer:
    made = trainer_of(parts, folder, EVERY_5, network)
    return Trainer(
        made.network, parts, EVERY_5, folder, made.choose, made.anchors, made.preprocessing,
        around=Surroundings(trackers=trackers),
    )  # fmt: skip


def runs_of(mlflow: Any, experiment: str = "autoformer") -> list[Any]:
    client = mlflow.MlflowClient()
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def history(mlflow: Any, run: Any, name: str) -> list[tuple[int, float]]:
    found = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
    return sorted((metric.step, metric.value) for metric in found)


def logged(folder: Path, event: str) -> list[dict[str, Any]]:
    every = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [one for one in every if one["event"] == event]


# --- MLflow --------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mlflow_holds_what_the_log_holds_though_the_training_was_killed_and_no_weight_differs(
    parts: DataParts, tmp_path: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    untold = trainer_of(parts, tmp_path / "untold", EVERY_5)
    expected = tensors_digest(untold.run().network.state_dict())
    folder = tmp_path / "told"
    with dying_at(28, monkeypatch):
        with_trackers(parts, folder, Mlflow).run()
    (run,) = runs_of(mlflow)
    assert run.info.status == "FAILED"
    found = with_trackers(parts, folder, Mlflow).run()
    assert tensors_digest(found.network.state_dict()) == expected
    (run,) = runs_of(mlflow)
    assert (run.info.run_name, run.info.status) == (str(folder), "FINISHED")
    assert run.data.params["epochs"] == "2"
    assert run.data.params["subnets.strategy"] == "uniform"
    for event in ("step", "epoch"):
        of_log: list[Any] = [(one["step"], pytest.approx(one["loss"])) for one in logged(folder, event)]
        assert of_log
        assert history(mlflow, run, f"{event}/loss") == of_log
    ((_, largest),) = history(mlflow, run, "score/largest")
    assert largest == pytest.approx(logged(folder, "epoch")[-1]["scores"]["largest"]["value"])
    assert not (folder / "trackers.json").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_training_begun_anew_is_another_run_and_the_environment_names_the_experiment(
    tmp_path: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "flowers")
    for _ in range(2):
        tell([Mlflow], Told(folder=tmp_path, first_step=0), 1)
    assert [history(mlflow, run, "step/loss") for run in runs_of(mlflow, "flowers")] == [[(1, 1.0)]] * 2


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_run_that_was_deleted_from_mlflow_is_begun_anew(tmp_path: Path, mlflow: Any) -> None:
    (tmp_path / "trackers.json").write_text('{"mlflow": "0123456789abcdef0123456789abcdef"}')
    tell([Mlflow], Told(folder=tmp_path, first_step=7), 8)
    (run,) = runs_of(mlflow)
    assert history(mlflow, run, "step/loss") == [(8, 0.125)]


# --- Weights & Biases ----------------------------------------------------------------------------------------------------


def test_weights_and_biases_gets_each_record_once_and_settings_as_they_are(tmp_path: Path, wandb: WandbServer) -> None:
    told = Told(folder=tmp_path, first_step=0, settings={"learning_rate": 0.1, "augment": {"flip": True}})
    with pytest.raises(KeyboardInterrupt):
        tell([Wandb], told, 5, 10, KeyboardInterrupt())
    (run,) = wandb.runs.values()
    assert (run.exit_code, run.project, run.name) == (1, "autoformer", str(tmp_path))
    tell([Wandb], Told(folder=tmp_path, first_step=5), 10, 15)
    (run,) = wandb.runs.values()
    assert [step for step, _ in run.history] == [5, 10, 15]
    assert run.history[0][1] == {"step/loss": 0.2, "step/seconds": 1.0, "step/skipped": 0.0}
    assert run.config == {"learning_rate": 0.1, "augment": {"flip": True}}
    assert (run.exit_code, run.is_open) == (0, False)


def test_a_tracker_that_lets_nobody_in_ends_the_training_before_it_begins_in_one_line(
    parts: DataParts, tmp_path: Path, wandb: WandbServer
) -> None:
    wandb.has_key = False
    with pytest.raises(
        StorageError, match=r"^wandb cannot be told of .*\(No API key configured.*\); see to it, or leave out --log$"
    ):
        with_trackers(parts, tmp_path, Wandb).run()
    assert not (tmp_path / "log.jsonl").exists()


# --- TensorBoard ---------------------------------------------------------------------------------------------------------


def test_tensorboard_drops_what_an_earlier_start_told_behind_the_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, steps in ((0, (5, 10, 15)), (10, (15,))):
        tell([TensorBoard], Told(folder=tmp_path, first_step=first), *steps)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("step/loss")] == [
        (5, pytest.approx(0.2)), (10, pytest.approx(0.1)), (15, pytest.approx(1 / 15)),
    ]  # fmt: skip


# --- any of them -----------------------------------------------------------------------------------------------------------


class Failing:
    """Takes one record."""

    endings: list[Ending] = []  # noqa: RUF012  # shared on purpose
    records: list[int] = []  # noqa: RUF012

    def __init__(self, told: Told) -> None:
        self.endings.clear()
        self.records.clear()

    def __call__(self, record: Mapping[str, Any]) -> None:
        if self.records:
            raise ConnectionError("the server is gone\nfor good")
        self.records.append(record["step"])

    def close(self, ending: Ending) -> None:
        self.endings.append(ending)


def test_a_tracker_that_fails_is_left_out_with_a_warning_and_the_training_goes_on(tmp_path: Path) -> None:
    with pytest.warns(AutoformerWarning, match=r"^Failing is told no more \(the server is gone\)") as told:
        tell([Failing], Told(folder=tmp_path, first_step=0), 1, 2, 3)
    assert len(told) == 1
    assert Failing.records == [1]


def test_a_record_without_a_finite_loss_is_told_without_it(tmp_path: Path, wandb: WandbServer) -> None:
    with tracked([Wandb], Told(folder=tmp_path, first_step=0)) as (hook,):
        hook({**record(3), "loss": None})
    (run,) = wandb.runs.values()
    assert run.history == [(3, {"step/seconds": 1.0, "step/skipped": 0.0})]


def test_settings_are_named_as_in_a_recipe() -> None:
    assert flat({"epochs": 2, "augment": {"flip": True, "mean": [0.5, 1]}, "teacher": None}) == {
        "epochs": "2", "augment.flip": "True", "augment.mean": "[0.5, 1]", "teacher": "None",
    }  # fmt: skip


@pytest.mark.parametrize("name", get_args(TrackerName))
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(MissingPackageError, match=rf"^--log {name} needs the package {name} .*: pip install {name}$"):
        trackers_of([name])


def test_what_the_command_line_offers_is_what_there_is() -> None:
    assert {one.value for one in Offered} == set(TRACKERS) == set(get_args(TrackerName))
