"""MLflow and Weights & Biases as far as a training uses them, in memory and strict: what the real ones refuse, they refuse.

Signatures and rules are those of MLflow 3.17 and wandb 0.31.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

RUNNING, ENDINGS = "RUNNING", ("FINISHED", "FAILED", "KILLED")


class MlflowException(Exception):
    pass


@dataclass(frozen=True)
class Param:
    key: str
    value: str


@dataclass(frozen=True)
class Metric:
    key: str
    value: float
    timestamp: int
    step: int


@dataclass
class FakeRun:
    experiment: str
    name: str
    status: str = RUNNING
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)


@dataclass
class MlflowServer:
    """What is stored, whoever asks."""

    experiments: dict[str, str] = field(default_factory=dict)  # numbers by names
    runs: dict[str, FakeRun] = field(default_factory=dict)
    is_down: bool = False

    def run(self, run_id: str) -> FakeRun:
        if self.is_down:
            raise MlflowException("the server does not answer")
        if run_id not in self.runs:
            raise MlflowException(f"Run with id={run_id} not found")
        return self.runs[run_id]

    def module(self) -> ModuleType:
        """The package, as `import mlflow` gives it."""
        module = ModuleType("mlflow")
        module.MlflowClient = lambda: FakeMlflowClient(self)  # type: ignore[attr-defined]
        module.entities = SimpleNamespace(Metric=Metric, Param=Param)  # type: ignore[attr-defined]
        module.exceptions = SimpleNamespace(MlflowException=MlflowException)  # type: ignore[attr-defined]
        return module


class FakeMlflowClient:
    def __init__(self, server: MlflowServer) -> None:
        self.server = server

    def get_experiment_by_name(self, name: str) -> Any:
        number = self.server.experiments.get(name)
        return None if number is None else SimpleNamespace(experiment_id=number)

    def create_experiment(self, name: str) -> str:
        if name in self.server.experiments:
            raise MlflowException(f"Experiment {name!r} already exists")
        return self.server.experiments.setdefault(name, str(len(self.server.experiments) + 1))

    def create_run(self, experiment_id: str, run_name: str | None = None) -> Any:
        assert experiment_id in self.server.experiments.values()
        number = f"run{len(self.server.runs)}"
        self.server.runs[number] = FakeRun(experiment_id, run_name or number)
        return self.get_run(number)

    def update_run(self, run_id: str, status: str | None = None) -> None:
        assert status in (RUNNING, *ENDINGS)
        self.server.run(run_id).status = status

    def set_terminated(self, run_id: str, status: str | None = None) -> None:
        assert status in ENDINGS
        self.server.run(run_id).status = status

    def log_batch(self, run_id: str, metrics: Sequence[Metric] = (), params: Sequence[Param] = ()) -> None:
        run = self.server.run(run_id)
        if len(params) > 100 or len(metrics) > 1000:
            raise MlflowException("A batch logging request can contain at most 100 params and 1000 metrics")
        for param in params:
            if len(param.value) > 500 or run.params.get(param.key, param.value) != param.value:
                raise MlflowException(f"Changing param values is not allowed, nor long ones: {param.key}")
            run.params[param.key] = param.value
        for metric in metrics:
            if not re.fullmatch(r"[-\w. /]+", metric.key) or type(metric.value) is not float or type(metric.step) is not int:
                raise MlflowException(f"Invalid metric: {metric}")
            run.metrics.append(metric)

    def get_metric_history(self, run_id: str, key: str) -> list[Metric]:
        return [metric for metric in self.server.run(run_id).metrics if metric.key == key]

    def get_run(self, run_id: str) -> Any:
        run = self.server.run(run_id)
        info = SimpleNamespace(run_id=run_id, run_name=run.name, status=run.status, experiment_id=run.experiment)
        return SimpleNamespace(info=info, data=SimpleNamespace(params=dict(run.params)))

    def search_runs(self, experiment_ids: list[str]) -> list[Any]:
        return [self.get_run(number) for number, run in self.server.runs.items() if run.experiment in experiment_ids]


# --- Weights & Biases ------------------------------------------------------------------------------------------------------


class UsageError(Exception):
    pass


@dataclass
class WandbRun:
    id: str
    name: str
    project: str
    config: dict[str, Any]
    step: int = 0
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    exit_code: int | None = None
    is_open: bool = True

    def log(self, data: dict[str, float], step: int) -> None:
        if not self.is_open:
            raise UsageError(f"Run ({self.id}) is finished. The call to `log` will be ignored.")
        assert all(type(value) is float for value in data.values())
        if step < self.step:
            raise UsageError(f"step {step} < {self.step}: the real one drops it")
        self.history.append((step, data))
        self.step = step

    def finish(self, exit_code: int) -> None:
        self.is_open, self.exit_code = False, exit_code


@dataclass
class WandbServer:
    """What is stored; without a key it lets nobody in."""

    has_key: bool = True
    runs: dict[str, WandbRun] = field(default_factory=dict)

    def init(self, *, project: str, name: str, id: str | None, resume: str, config: dict[str, Any], settings: Any) -> WandbRun:
        if not self.has_key:
            raise UsageError("No API key configured. Use `wandb login` to log in.")
        assert resume == "allow"
        assert settings.silent
        if any(run.is_open for run in self.runs.values()):
            raise UsageError("a run is open already")
        number = id or f"w{len(self.runs)}"
        run = self.runs.setdefault(number, WandbRun(number, name, project, config))
        run.is_open, run.step = True, run.step + bool(run.history)  # a resumed run begins behind its last step
        return run

    def module(self) -> ModuleType:
        """The package, as `import wandb` gives it."""
        module = ModuleType("wandb")
        module.init = self.init  # type: ignore[attr-defined]
        module.Settings = lambda silent: SimpleNamespace(silent=silent)  # type: ignore[attr-defined]
        return module
