"""Folders of work that was begun and not finished: known by their identity, which says what they will hold in the end."""

from __future__ import annotations

import json
from pathlib import Path

from autoformer.errors import CheckpointError
from autoformer.files import IDENTITY

# By the kind of work: the file that stands there in the end, what is unfinished, and the command that goes on with it.
WORK = {
    "run": ("report.json", "an unfinished run", "autoformer run"),
    "supernet": ("supernet.json", "an unfinished training of a supernet", "autoformer train"),
    "subnet": ("subnet.json", "an unfinished finetune", "autoformer finetune"),
    "timm": ("network.json", "an unfinished finetune", "autoformer finetune"),
    "search": ("search.json", "an unfinished search", "autoformer search"),
    "race": ("race.json", "an unfinished race", "autoformer race"),
}
SCORED = "test.json"  # the last that a run writes before its report


def kind_of_work(folder: Path) -> str | None:
    """What a folder was claimed for; None where it was not, or its identity cannot be read."""
    try:
        held = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kind = held.get("kind") if isinstance(held, dict) else None
    return kind if isinstance(kind, str) and kind in WORK else None


def refuse_unfinished(folder: Path) -> None:
    """Raises `CheckpointError` for a folder of work that is not finished, naming the command that goes on with it."""
    kind = kind_of_work(folder)
    if kind is None:
        return
    last, what, command = WORK[kind]
    if (folder / last).exists():
        return
    if kind == "run" and (folder / SCORED).exists():
        return  # its report alone is missing, which `autoformer report build` writes
    if kind != "run" and kind_of_work(folder.resolve().parent) == "run":
        command = WORK["run"][2]
    raise CheckpointError(f"{folder} holds {what}; give the same `{command}` again: it goes on where it stopped")
