"""Trackers: TensorBoard, MLflow and Weights & Biases are told what `log.jsonl` holds, a run of theirs for each training.

A training that goes on after an interruption goes on in the same run, whose name there lies in `trackers.json` until the
training is finished. Where records go is the tracker's own business (MLFLOW_TRACKING_URI, WANDB_MODE and so on). One that
cannot be opened ends the training before it begins; one that fails later is left out with a warning. Nothing of it changes the
weights.
"""

from __future__ import annotations

import importlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, get_args

from autoformer.errors import AutoformerWarning, CheckpointError, InterruptedRunError, MissingPackageError, StorageError, short
from autoformer.files import read_json, write_json
from autoformer.training.log import Hook

TrackerName = Literal["wandb", "mlflow", "tensorboard"]
Ending = Literal["finished", "stopped", "failed"]
PROJECT = "autoformer"  # what experiments and projects are called where the environment says nothing
FILE = "trackers.json"
MODULES = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "torch.utils.tensorboard"}
LONGEST_SETTING = 500  # letters; what every version of MLflow takes


@dataclass(frozen=True, kw_only=True)
class Told:
    """A training as a tracker sees it."""

    folder: Path
    first_step: int  # what is known of later ones is of a start that was cut off
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # JSON

    @property
    def name(self) -> str:
        return str(self.folder)


class Tracking(Protocol):
    """One training in one tracker."""

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Takes a record of the log."""

    def close(self, ending: Ending) -> None:
        """Nothing more will come."""


Tracker = Callable[[Told], Tracking]


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by their names in a tracker: `epoch/loss`, `step/learning_rate`, `score/largest`."""
    named = {
        f"{record['event']}/{name}": float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and name not in ("step", "epoch")
    }
    return named | {f"score/{name}": float(score["value"]) for name, score in record.get("scores", {}).items()}


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Settings by their names in a recipe, `augment.flip`, as short texts."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        found |= (
            flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": str(value)[:LONGEST_SETTING]}
        )
    return found


# --- the trackers ------------------------------------------------------------------------------------------------------


class TensorBoard:
    """Event files in the folder `tensorboard` of the training; those of an earlier start behind `first_step` are dropped."""

    def __init__(self, told: Told) -> None:
        self.writer = module_of("tensorboard").SummaryWriter(str(told.folder / "tensorboard"), purge_step=told.first_step + 1)

    def __call__(self, record: Mapping[str, Any]) -> None:
        for name, value in scalars(record).items():
            self.writer.add_scalar(name, value, record["step"])
        self.writer.flush()

    def close(self, ending: Ending) -> None:
        self.writer.close()


class Mlflow:
    """A run of MLflow, in the experiment that MLFLOW_EXPERIMENT_NAME names. What it holds already is not sent again."""

    ENDINGS: ClassVar[dict[Ending, str]] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

    def __init__(self, told: Told) -> None:
        mlflow = module_of("mlflow")
        self.entities, self.client, self.known = mlflow.entities, mlflow.MlflowClient(), 0
        run = remembered(told, "mlflow")
        if run is not None:
            with suppress(mlflow.exceptions.MlflowException):  # it was deleted, or is in another store
                self.known = self._last_step(run)
                self.client.update_run(run, status="RUNNING")
                self.run = run
                return
        self.known = 0
        made = self.client.create_run(self._experiment(mlflow), run_name=told.name)
        self.run = made.info.run_id
        settings = [self.entities.Param(name, value) for name, value in flat(told.settings).items()]
        for first in range(0, len(settings), 100):  # as many as one call takes
            self.client.log_batch(self.run, params=settings[first : first + 100])
        remember(told, "mlflow", self.run)

    def __call__(self, record: Mapping[str, Any]) -> None:
        if record["step"] <= self.known:
            return
        now = int(1000 * time.time())
        numbers = [self.entities.Metric(name, value, now, record["step"]) for name, value in scalars(record).items()]
        self.client.log_batch(self.run, metrics=numbers)

    def close(self, ending: Ending) -> None:
        self.client.set_terminated(self.run, status=self.ENDINGS[ending])

    def _experiment(self, mlflow: Any) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        if (found := self.client.get_experiment_by_name(name)) is None:
            with suppress(mlflow.exceptions.MlflowException):  # another process was faster
                return str(self.client.create_experiment(name))
            found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id)

    def _last_step(self, run: str) -> int:
        every = [metric.step for event in ("step", "epoch") for metric in self.client.get_metric_history(run, f"{event}/seconds")]
        return max(every, default=0)


class Wandb:
    """A run of Weights & Biases, in the project that WANDB_PROJECT names."""

    def __init__(self, told: Told) -> None:
        wandb = module_of("wandb")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=told.name, id=remembered(told, "wandb"), resume="allow",
            config=dict(told.settings), settings=wandb.Settings(silent=True),
        )  # fmt: skip
        self.known = self.run.step  # it takes no earlier ones
        remember(told, "wandb", self.run.id)

    def __call__(self, record: Mapping[str, Any]) -> None:
        if record["step"] >= self.known:
            self.run.log(scalars(record), step=record["step"])

    def close(self, ending: Ending) -> None:
        self.run.finish(exit_code=0 if ending == "finished" else 1)


TRACKERS: dict[TrackerName, Tracker] = {"wandb": Wandb, "mlflow": Mlflow, "tensorboard": TensorBoard}


def trackers_of(names: Sequence[str]) -> tuple[Tracker, ...]:
    """The trackers of these names, each once. Raises `MissingPackageError` where the package of one is not installed."""
    chosen = [name for name in get_args(TrackerName) if name in names]
    for name in chosen:
        module_of(name)
    return tuple(TRACKERS[name] for name in chosen)


def module_of(name: TrackerName) -> Any:
    """The package of a tracker. Raises `MissingPackageError` with the command that installs it."""
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise MissingPackageError(f"--log {name} needs the package {name} ({error}): pip install {name}") from error


# --- a training and its trackers -----------------------------------------------------------------------------------------


@contextmanager
def tracked(trackers: Sequence[Tracker], told: Told) -> Iterator[list[Hook]]:
    """Hooks that tell these trackers of a training while the block runs. Raises `StorageError` for one that cannot be opened."""
    opened: list[_UntilItFails] = []
    ending: Ending = "failed"
    if not told.first_step:  # what an earlier start was called there is over
        forget(told.folder)
    try:
        opened += (_UntilItFails.of(tracker, told) for tracker in trackers)
        yield [*opened]
        ending = "finished"
    except (InterruptedRunError, KeyboardInterrupt, SystemExit):
        ending = "stopped"
        raise
    finally:
        for one in opened:
            one.close(ending)


@dataclass
class _UntilItFails:
    """Tells a tracker until it fails once: a training does not end because a server does."""

    tracking: Tracking
    is_left_out: bool = False

    @classmethod
    def of(cls, tracker: Tracker, told: Told) -> _UntilItFails:
        try:
            return cls(tracker(told))
        except (MissingPackageError, StorageError):
            raise
        except Exception as error:  # whatever a library and its server raise
            raise StorageError(
                f"{_named(tracker)} cannot be told of {told.name} ({_reason(error)}); see to it, or leave out --log"
            ) from error

    def __call__(self, record: Mapping[str, Any]) -> None:
        self._try(lambda: self.tracking(record))

    def close(self, ending: Ending) -> None:
        self._try(lambda: self.tracking.close(ending))

    def _try(self, work: Callable[[], None]) -> None:
        if self.is_left_out:
            return
        try:
            work()
        except Exception as error:
            self.is_left_out = True
            words = f"{_named(type(self.tracking))} is told no more ({_reason(error)}); log.jsonl has everything"
            warnings.warn(words, AutoformerWarning, stacklevel=2)


def _named(tracker: Any) -> str:
    return next((name for name, known in TRACKERS.items() if known is tracker), getattr(tracker, "__name__", str(tracker)))


def _reason(error: Exception) -> str:
    return short((str(error).strip().splitlines() or [type(error).__name__])[0])


def remembered(told: Told, tracker: TrackerName) -> str | None:
    """The name of the run in a tracker that a training goes on in; None: it begins."""
    with suppress(CheckpointError):
        name = read_json(told.folder / FILE).get(tracker)
        return name if isinstance(name, str) else None
    return None


def remember(told: Told, tracker: TrackerName, run: str) -> None:
    """Keeps the name of a run for when the training goes on."""
    held: dict[str, Any] = {}
    with suppress(CheckpointError):
        held = read_json(told.folder / FILE)
    write_json({**held, tracker: run}, told.folder / FILE)


def forget(folder: Path) -> None:
    """Removes what is remembered: the training is finished."""
    (folder / FILE).unlink(missing_ok=True)
