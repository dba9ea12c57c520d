"""The program of a bundle, for the device itself: `python3 board.pyz verify | predict | bench | build | refit | inspect`.

Needs Python 3.10, numpy, Pillow and the runtime that is there: ONNX Runtime, TensorRT, or NVIDIA's program trtexec; nothing
else. The bundle is the folder that the program lies in, unless --bundle names another. Exit codes: 0 all matches, 1
something does not, 2 the command or the bundle cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from autoformer.cli.board import build as board_build
from autoformer.cli.board.bench import bench
from autoformer.cli.board.build import build
from autoformer.cli.board.program import Answer, duration, run_command, whole
from autoformer.cli.board.refit import inspect, refit
from autoformer.cli.board.verify import predict, verify
from autoformer.profiling.measuring.clock_lock import LOCK_HELP, LOCK_OPTION

COMMANDS: Mapping[str, Callable[[argparse.Namespace], Answer]] = {
    "verify": verify, "predict": predict, "bench": bench, "build": build, "refit": refit, "inspect": inspect,
}  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """The program."""
    arguments = parser().parse_args(words)
    return run_command(COMMANDS[arguments.command], arguments, lines, stopped="stopped; files that were finished are kept")


def parser() -> argparse.ArgumentParser:
    """The words on the command line."""
    found = argparse.ArgumentParser(
        prog="board.pyz", description="Checks, runs and times the networks of a bundle on this device."
    )
    found.add_argument("--bundle", type=Path, default=Path(sys.argv[0]).resolve().parent, help="folder of the bundle")
    commands = found.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=(command.__doc__ or "").splitlines()[0])
        one.add_argument("--json", action="store_true", help="one JSON document instead of lines")
        if name == "predict":
            one.add_argument("images", nargs="+", help="image files")
            one.add_argument("--top", type=whole, default=3, help="classes shown per image")
            one.add_argument("--precision", choices=("fp32", "fp16", "int8"), help="default: fp32")
            continue
        if name == "refit":
            one.add_argument("source", type=Path, help="another bundle of the same architecture, with engines built here")
        if name in ("refit", "inspect"):
            continue
        one.add_argument("--batch", type=whole, default=None, help="images in one call; default: 1, or what a file is fixed to")
        if name == "build":
            board_build.add_options(one)
            continue
        one.add_argument("--threads", type=whole, default=1, help="CPU threads")
        one.add_argument("--seconds", type=duration, default=3.0, help="measuring time per file")
        if name == "bench":
            one.add_argument(LOCK_OPTION, action="store_true", help=LOCK_HELP)
        one.add_argument("--out", type=Path, help="result file to write, for `autoformer report import` on another machine")
    return found


def lines(answer: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """An answer for people: a line per entry, samples left out."""
    for name, value in answer.items():
        if name.endswith("samples_ms") or name in ("device", "settings", "conditions", "round_runs", "instances_ms"):
            continue
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}"
            yield from lines(value, indent + "  ")
        elif isinstance(value, list):
            yield f"{indent}{name}: " + ("; ".join(_words(entry) for entry in value) or "none")
        else:
            yield f"{indent}{name}: {_words(value)}"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(_words(entry) for entry in value.values())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
