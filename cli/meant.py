"""Commands that people know from other programs, or in which they left a word out: what they mean here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from autoformer.files import TIMM

# By the word that is no command: what to type. Those of other programs, and those of a bundle's own program.
ELSEWHERE = {
    "verify": "python3 board.pyz verify, in the folder of a bundle (autoformer bundle RUN --out FOLDER)",
    "bench": "autoformer profile run, or python3 board.pyz bench in the folder of a bundle",
    "benchmark": "autoformer profile run",
    "measure": "autoformer profile run",
    "latency": "autoformer profile run",
    "val": "autoformer evaluate",
    "valid": "autoformer evaluate",
    "validate": "autoformer evaluate",
    "test": "autoformer evaluate --part test",
    "eval": "autoformer evaluate",
    "score": "autoformer evaluate",
    "infer": "autoformer predict",
    "inference": "autoformer predict",
    "classify": "autoformer predict",
    "detect": "autoformer predict",
    "convert": "autoformer export",
    "onnx": "autoformer export --format onnx",
    "trt": "autoformer export --format tensorrt",
    "tensorrt": "autoformer export --format tensorrt",
    "rtx": "autoformer export --format tensorrt-rtx --gpu sm89",
    "quantize": "autoformer export --precision int8",
    "build": "autoformer export --format tensorrt, or python3 board.pyz build in the folder of a bundle",
    "deploy": "autoformer bundle",
    "pack": "autoformer bundle",
    "fit": "autoformer train, or autoformer run for the whole chain",
    "tune": "autoformer finetune",
    "resume": "the same command again: it goes on where it stopped",
    "info": "autoformer describe",
    "show": "autoformer describe",
    "summary": "autoformer describe",
    "recipes": "autoformer recipe list",
    "list": "autoformer recipe list",
    "init": "autoformer recipe copy NAME mine.yaml",
    "settings": "autoformer recipe explain",
    "checks": "autoformer doctor",
    "version": "autoformer --version",
    "help": "autoformer --help",
}
USUAL = {"profile": "run", "data": "check", "report": "build", "recipe": "show", "": "describe"}  # by group; "": no group


def meant_by(message: str, words: Sequence[str]) -> str | None:
    """What to type instead of the command that an error of the command line `words` names; None where nothing is known of it."""
    found = re.search(r"No such command '(.*?)'\.", message)
    if found is None or found[1] not in words:
        return None
    word, place = found[1], words.index(found[1])
    group = next((name for name in words[:place] if name in USUAL), "")
    if not group and word in ELSEWHERE:
        return f"no command {word!r}; write {ELSEWHERE[word]}"
    if group == "recipe" or not group:
        from autoformer.cli.chain.shipped import shipped

        if word in shipped():
            return _said(word, words, place, USUAL[group] if group else "run")
    if "/" in word or word.startswith(TIMM) or Path(word).exists():
        return _said(word, words, place, USUAL[group])
    return None


def _said(word: str, words: Sequence[str], place: int, command: str) -> str:
    line = shlex.join(["autoformer", *words[:place], command, *words[place:]])
    return f"{word!r} is no command; did you mean: {line}"
