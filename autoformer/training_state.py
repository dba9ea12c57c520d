"""Everything a training needs to go on, in one safetensors file per finished epoch.

A checkpoint is complete or absent. The newest few are kept; one that was damaged (a full disk, a crash of the machine) is
passed over with a warning and the one before it is taken.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoformer.checkpoint import read_metadata, read_tensors, write_tensors
from autoformer.errors import CheckpointError

PATTERN = re.compile(r"epoch-(\d{6})\.safetensors")


class TrainingState:
    """The weights, the optimiser and the history of a training, and their files in `folder`."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, keep: int) -> None:
        self.network, self.optimizer, self.folder, self.keep = network, optimizer, folder, keep
        self.epoch = 0  # finished epochs
        self.history: list[dict[str, Any]] = []

    @property
    def last_accuracy(self) -> dict[str, Any]:
        """The newest accuracies in the history, by anchor."""
        found = [record["accuracy"] for record in self.history if "accuracy" in record]
        return dict(found[-1]) if found else {}

    def finish_epoch(self, record: dict[str, Any]) -> None:
        """Appends `record` to the history and saves; older checkpoints beyond the number kept are removed."""
        self.epoch += 1
        self.history.append(record)
        tensors: dict[str, Tensor] = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()})
        path = self.folder / f"epoch-{self.epoch:06d}.safetensors"
        write_tensors(tensors, path, {"epoch": self.epoch, "history": self.history})
        for old in self._files()[self.keep :]:
            old.unlink()

    def load_newest(self) -> None:
        """Goes on from the newest readable checkpoint, or from the start if there is none.

        Raises `CheckpointError` when there are checkpoints but none can be read.
        """
        files, failures = self._files(), []
        for path in files:
            try:
                metadata, tensors = read_metadata(path), read_tensors(path)
                self._check(path, metadata, tensors)
            except CheckpointError as error:
                failures.append(str(error))
                continue
            if failures:
                warnings.warn(f"{failures[0]}; going on from {path.name} instead", stacklevel=2)
            self._restore(metadata, tensors)
            return
        if failures:
            raise CheckpointError(f"no checkpoint in {self.folder} can be read: {failures[0]}")

    def _check(self, path: Path, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Raises `CheckpointError` unless the file holds an epoch of this network's training."""
        epoch, history = metadata.get("epoch"), metadata.get("history")
        records = history if isinstance(history, list) else []
        numbered = isinstance(epoch, int) and path.name == f"epoch-{epoch:06d}.safetensors"
        if not numbered or len(records) != epoch:
            raise CheckpointError(f"{path} is no checkpoint of this epoch; it was edited or comes from elsewhere")
        if not all(isinstance(record, dict) and isinstance(record.get("accuracy", {}), dict) for record in records):
            raise CheckpointError(f"{path} holds a history that cannot be read; it was edited or damaged")
        expected = {f"network.{name}": value.shape for name, value in self.network.state_dict().items()}
        if {name: value.shape for name, value in tensors.items() if name.startswith("network.")} != expected:
            raise CheckpointError(f"{path} holds the weights of another network")
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        kept: dict[str, set[str]] = {}
        for name, value in tensors.items():
            if name.startswith("network."):
                continue
            kind, _, rest = name.partition(".")
            index, _, key = rest.partition(".")
            fits = kind == "optimizer" and key != "" and index.isdecimal() and len(index) < 8 and int(index) < len(weights)
            if not fits or (value.dim() and value.shape != weights[int(index)].shape):
                raise CheckpointError(f"{path} holds {name}, which is not the state of this optimiser")
            kept.setdefault(index, set()).add(key)
        if any(keys != next(iter(kept.values())) for keys in kept.values()):
            raise CheckpointError(f"{path} holds an incomplete state of the optimiser")

    def _restore(self, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.epoch, self.history = metadata["epoch"], metadata["history"]
        self.network.load_state_dict({name[8:]: value for name, value in tensors.items() if name.startswith("network.")})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _files(self) -> list[Path]:
        """The checkpoints, newest first."""
        found = [path for path in self.folder.glob("epoch-*.safetensors") if PATTERN.fullmatch(path.name)]
        return sorted(found, reverse=True)
