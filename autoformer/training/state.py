"""Everything a training needs to go on, in one safetensors file: after every epoch, and now and then within one.

Holds the weights, their moving average, the optimiser, the scaler of float16 and the history. No random state: whatever is
random is a function of (seed, step), and the step is here. A checkpoint is complete or absent. The newest few are kept, and
the best by the score on the search part; one that was damaged (a full disk, a crash of the machine) is passed over with a
warning, and the one before it is taken.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoformer.errors import AutoformerWarning, CheckpointError, TrainingError
from autoformer.tensors import check_weights, read_metadata, read_tensors, write_tensors
from autoformer.training.distributed import World

NUMBERS = {"int": torch.int64, "float": torch.float64, "bool": torch.bool}  # plain numbers in the state of some optimisers
NETWORKS = ("network", "average", "projector")  # what has weights, by the word before their names in a checkpoint
GROUP = re.compile(r"group\.\d{1,6}\.\w+")  # a counter that an optimiser keeps as a tensor
PATTERN = re.compile(r"step-(\d{9})\.safetensors")


@dataclass
class TrainingState:
    """The state of a training, and its files in `folder`. The leading process alone reads and writes them."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    folder: Path
    keep: int
    steps_per_epoch: int
    average: nn.Module | None = None  # the moving average of the network
    scaler: torch.amp.GradScaler | None = None
    world: World = field(default_factory=World)
    projector: nn.Module | None = None  # what learns beside the network and is no part of the result

    def __post_init__(self) -> None:
        self.step = 0  # finished steps
        self.history: list[dict[str, Any]] = []  # one record per finished epoch
        self.epoch_sums: dict[str, float] = {}  # what the running epoch has added up so far
        self.best: dict[str, Any] | None = None  # {"score", "epoch"}

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self.steps_per_epoch

    @property
    def last_scores(self) -> dict[str, Any]:
        """The newest scores in the history, by anchor."""
        found = [record["scores"] for record in self.history if "scores" in record]
        return dict(found[-1]) if found else {}

    @property
    def result(self) -> nn.Module:
        """What the training ends with and what is scored: the moving average where there is one."""
        return self.network if self.average is None else self.average

    # --- writing -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes a checkpoint of this step; older ones beyond the number kept are removed.

        Raises `TrainingError` when it cannot be written; the ones before stay.
        """
        if not self.world.leads:
            return
        tensors = self._tensors()
        kept = self._optimizer_state()
        metadata = {
            "step": self.step,
            "history": self.history,
            "epoch_sums": self.epoch_sums,
            "best": self.best,
            "groups": [_plain(group) for group in self.optimizer.state_dict()["param_groups"]],
            "optimizer": {name: type(value).__name__ for name, value in kept.items()},
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        self._write(tensors, self.folder / f"step-{self.step:09d}.safetensors", metadata)
        for old in self._files()[self.keep :]:
            old.unlink()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"{kind}.{name}": value for kind, part in self._networks for name, value in part.state_dict().items()}
        for index, group in enumerate(self.optimizer.state_dict()["param_groups"]):
            tensors |= {f"group.{index}.{name}": value for name, value in group.items() if isinstance(value, Tensor)}
        for name, value in self._optimizer_state().items():
            tensors[name] = value if isinstance(value, Tensor) else torch.tensor(value, dtype=NUMBERS[type(value).__name__])
        return tensors

    @property
    def _networks(self) -> list[tuple[str, nn.Module]]:
        """Those of `NETWORKS` that there are."""
        every = zip(NETWORKS, (self.network, self.average, self.projector), strict=True)
        return [(kind, part) for kind, part in every if part is not None]

    def _optimizer_state(self) -> dict[str, Tensor | int | float]:
        """What the optimiser knows of each weight. Raises `TrainingError` where a checkpoint cannot hold it."""
        found = {}
        for index, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if value is None:
                    continue
                if not isinstance(value, Tensor) and type(value).__name__ not in NUMBERS:
                    raise TrainingError(
                        f"optimizer {type(self.optimizer).__name__} keeps {name!r} as a {type(value).__name__}, which no "
                        "checkpoint holds; choose another train.optimizer"
                    )
                found[f"optimizer.{index}.{name}"] = value
        return found

    @property
    def bytes(self) -> int:
        """The size of a checkpoint of now. Raises `TrainingError` where there can be none."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors().values())

    def keep_best(self, score: float) -> bool:
        """Keeps the weights as the best so far if `score` is higher than all before; whether it was."""
        if self.best is not None and score <= self.best["score"]:
            return False
        self.best = {"score": score, "epoch": self.epoch}
        if self.world.leads:
            self._write(self.result.state_dict(), self.folder / "best.safetensors", self.best)
        return True

    def load_best(self) -> None:
        """Puts the best weights into `result`; where their file is damaged the last ones stay, with a warning."""
        weights = self.world.from_leader(self._read_best() if self.world.leads else None)
        if weights is None:
            self.best = None
        else:
            self.result.load_state_dict(weights)

    def _read_best(self) -> dict[str, Tensor] | None:
        path = self.folder / "best.safetensors"
        try:
            if read_metadata(path) != self.best:
                raise CheckpointError(f"{path} is not of epoch {(self.best or {}).get('epoch')}")
            tensors = read_tensors(path)
            check_weights(self.result, tensors, path)
            return tensors
        except CheckpointError as error:
            warnings.warn(f"{error}; the last weights are kept instead of the best", AutoformerWarning, stacklevel=2)
            return None

    def _write(self, tensors: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> None:
        try:
            write_tensors(tensors, path, metadata)
        except OSError as error:
            raise TrainingError(
                f"{path} cannot be written ({error.strerror or error}); make room or mend the folder, then run the same command "
                "again to go on from the checkpoint before it"
            ) from error

    # --- reading -------------------------------------------------------------------------------------------------

    def load_newest(self) -> None:
        """Goes on from the newest readable checkpoint, or from the start if there is none.

        Raises `CheckpointError` when there are checkpoints but none can be read.
        """
        found = self.world.from_leader(self._read_newest() if self.world.leads else None)
        if found is not None:
            self._restore(*found)

    def _read_newest(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        files, failures = self._files(), []
        for path in files:
            try:
                metadata, tensors = read_metadata(path), read_tensors(path)
                self._check(path, metadata, tensors)
            except CheckpointError as error:
                failures.append(str(error))
                continue
            if failures:
                warnings.warn(f"{failures[0]}; going on from {path.name} instead", AutoformerWarning, stacklevel=2)
            return metadata, tensors
        if failures:
            raise CheckpointError(f"no checkpoint in {self.folder} can be read: {failures[0]}")
        return None

    def _check(self, path: Path, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Raises `CheckpointError` unless the file holds a step of this network's training."""
        step, history = metadata.get("step"), metadata.get("history")
        records = history if isinstance(history, list) else []
        numbered = isinstance(step, int) and path.name == f"step-{step:09d}.safetensors"
        if not numbered or not isinstance(step, int) or len(records) != step // self.steps_per_epoch:
            raise CheckpointError(f"{path} is not a checkpoint of this step; it was edited or comes from elsewhere")
        best, sums, groups = metadata.get("best"), metadata.get("epoch_sums"), metadata.get("groups")
        known = [_plain(group) for group in self.optimizer.state_dict()["param_groups"]]
        readable = (
            all(isinstance(record, dict) and isinstance(record.get("scores", {}), dict) for record in records)
            and (best is None or (isinstance(best, dict) and {"score", "epoch"} == set(best)))
            and isinstance(sums, dict)
            and all(isinstance(value, int | float) for value in sums.values())
            and isinstance(groups, list)
            and [isinstance(group, dict) and set(group) >= set(own) for group, own in zip(groups, known, strict=False)]
            == [True] * len(known)
            and len(groups) == len(known)
            and isinstance(metadata.get("optimizer"), dict)
            and (metadata.get("scaler") is None) == (self.scaler is None)
        )
        if not readable:
            raise CheckpointError(f"{path} holds a history that cannot be read; it was edited or damaged")
        expected = {f"{kind}.{name}": value.shape for kind, part in self._networks for name, value in part.state_dict().items()}
        if {name: value.shape for name, value in tensors.items() if name.partition(".")[0] in NETWORKS} != expected:
            raise CheckpointError(f"{path} holds the weights of another network")
        own = {name: value for name, value in tensors.items() if name.startswith("optimizer.")}
        self._check_optimizer(path, metadata["optimizer"], own)
        counters = {name for name, value in tensors.items() if GROUP.fullmatch(name) and value.numel() == 1}
        counters = {name for name in counters if int(name.split(".")[1]) < len(known)}
        known_kinds = (*NETWORKS, "optimizer")
        if unknown := [name for name in tensors if name.partition(".")[0] not in known_kinds and name not in counters]:
            raise CheckpointError(f"{path} holds {unknown[0]}, which is not part of a checkpoint")

    def _check_optimizer(self, path: Path, kinds: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for name, value in tensors.items():
            index, _, key = name.removeprefix("optimizer.").partition(".")
            fits = key != "" and index.isdecimal() and len(index) < 8 and int(index) < len(weights)
            if not fits or value.numel() > max(1, weights[int(index)].numel()):
                raise CheckpointError(f"{path} holds {name}, which is not the state of this optimiser")
            if kinds.get(name) in NUMBERS and value.numel() != 1:
                raise CheckpointError(f"{path} holds {name} as {value.numel()} numbers, expected one")
        if set(kinds) != set(tensors):
            raise CheckpointError(f"{path} holds an incomplete state of the optimiser")

    def _restore(self, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.step, self.history = metadata["step"], metadata["history"]
        self.epoch_sums, self.best = metadata["epoch_sums"], metadata["best"]
        for kind, part in self._networks:
            prefix = f"{kind}."
            part.load_state_dict({name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)})
        state: dict[int, dict[str, Any]] = {}
        for name, kind in metadata["optimizer"].items():
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensors[name].item() if kind in NUMBERS else tensors[name]
        groups = self.optimizer.state_dict()["param_groups"]
        restored = [{**group, **stored} for group, stored in zip(groups, metadata["groups"], strict=True)]
        for name in (name for name in tensors if name.startswith("group.")):
            _, index, key = name.split(".", 2)
            restored[int(index)][key] = tensors[name]
        self.optimizer.load_state_dict({"state": state, "param_groups": restored})
        if self.scaler is not None:
            self.scaler.load_state_dict(metadata["scaler"])

    def _files(self) -> list[Path]:
        """The checkpoints, newest first."""
        found = [path for path in self.folder.glob("step-*.safetensors") if PATTERN.fullmatch(path.name)]
        return sorted(found, reverse=True)


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    """What of an optimiser's group changes while it works and can stand in JSON (its rate, counters of some optimisers)."""
    return {key: value for key, value in group.items() if key != "params" and isinstance(value, int | float | str | None)}
