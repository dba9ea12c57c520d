"""What the two programs for devices share: the command line, progress, answers, and errors as one line and an exit code.

Standard library only; works on Python 3.10.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoformer.architecture import whole_number
from autoformer.errors import AutoformerError, MissingPackageError, memory_shortage, said, short, to_install
from autoformer.escaping import json_text, one_line, take_any_letter, visible
from autoformer.files import refuse_pipes
from autoformer.profiling.measuring.clock_lock import LOCK_HELP, LOCK_OPTION

Answer = tuple[dict[str, Any], bool]  # of a command: what it found, and whether all is as it should be
Lines = Callable[[Mapping[str, Any]], Iterable[str]]  # an answer for people
UNUSABLE, INTERRUPTED = 2, 130  # exit codes


def whole(words: str) -> int:
    """A number of things on the command line, from 1."""
    if not (number := whole_number(words)):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {words[:40]!r}")
    return number


def duration(words: str) -> float:
    """Seconds on the command line, more than 0."""
    try:
        seconds = float(words)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {words[:40]!r}")
    return seconds


OPTIONS: Mapping[str, Mapping[str, Any]] = {  # those that several commands have
    "--threads": {"type": whole, "default": 1, "help": "CPU threads of ONNX Runtime; default 1"},
    "--seconds": {"type": duration, "default": 3.0, "help": "measuring time per file; default 3"},
    LOCK_OPTION: {"action": "store_true", "help": LOCK_HELP},
    "--quiet": {"action": "store_true", "help": "no progress on stderr"},
    "--json": {"action": "store_true", "help": "one JSON document instead of lines"},
}


class Program:
    """`board.pyz` of a folder of this `kind`, which is the one that the program lies in unless an option names another."""

    def __init__(self, kind: str, description: str, *, stopped: str, lacking: Callable[[], Sequence[str]] = list) -> None:
        """`stopped` is said after Ctrl-C; `lacking` names modules that are needed and not here, for when one is missed."""
        self._stopped, self._lacking = stopped, lacking
        self._parser = argparse.ArgumentParser(prog="board.pyz", description=description)
        here = Path(sys.argv[0]).resolve().parent
        self._parser.add_argument(f"--{kind}", type=Path, default=here, help=f"folder of the {kind}; default: where board.pyz is")
        self._commands = self._parser.add_subparsers(dest="command")

    def add(
        self, command: Callable[[argparse.Namespace], Answer], *options: str, lines: Lines | None = None
    ) -> argparse.ArgumentParser:
        """A command with the name of its function, and these of `OPTIONS`; gives its parser for more.

        `lines` make its answer readable; None: a line per entry.
        """
        found = self._commands.add_parser(command.__name__, help=(command.__doc__ or "").splitlines()[0])
        found.set_defaults(run=command, lines=lines or _lines)
        for name in (*options, "--json"):
            found.add_argument(name, **OPTIONS[name])
        return found

    def main(self, words: list[str] | None) -> int:
        """Runs the command that `words` (else those of the process) name, prints its answer and gives the exit code.

        0: all is well, 1: something is not, 2: one line says what cannot be used, 130: Ctrl-C.
        """
        arguments = self._parser.parse_args(words)
        if arguments.command is None:  # as a person types who wants to see what there is
            self._parser.print_help()
            return 0
        take_any_letter()
        try:
            refuse_pipes(sys.argv[1:] if words is None else words)
            answer, good = arguments.run(arguments)
            if sys.stderr.isatty():
                print("\r\033[K", end="", file=sys.stderr, flush=True)  # the line of progress
            print(json_text(answer) if arguments.json else "\n".join(map(visible, arguments.lines(answer))), flush=True)
        except KeyboardInterrupt:
            print(self._stopped, file=sys.stderr)
            return INTERRUPTED
        except ModuleNotFoundError as error:
            return _unusable(to_install(error.name, *self._lacking()))
        except AutoformerError as error:
            missing = self._lacking() if isinstance(error, MissingPackageError) else ()
            more = f"; {to_install(*missing)}" if any(name not in str(error) for name in missing) else ""
            return _unusable(said(error) + more)
        except BrokenPipeError:  # the reader of our output went away, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            if (shortage := memory_shortage(error)) is not None:
                return _unusable(f"{shortage}; end other programs, or take a smaller batch")
            if not isinstance(error, OSError):
                raise
            return _unusable(f"{error.filename or 'a file'}: {error.strerror or error}; check the path and its permissions")
        return 0 if good else 1


def tell(work: str, done: int, total: int, note: str = "") -> None:
    """Progress on stderr: one line that is written over on a terminal; elsewhere a line for each finished work."""
    if sys.stderr.isatty():
        print(f"\r{visible(short(work, 60))}: {done} of {total}\033[K", end="", file=sys.stderr, flush=True)
    elif done == total:
        print(f"{visible(work)}: done", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """A line on stderr."""
    print(visible(text), file=sys.stderr, flush=True)


def _lines(answer: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """An answer for people: a line per entry, samples left out."""
    for name, value in answer.items():
        if name.endswith("samples_ms") or name in ("device", "settings", "conditions", "round_runs", "instances_ms"):
            continue
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list | Mapping):
            yield f"{indent}{name}: " + ("; ".join(_words(entry) for entry in value) or "none")
        else:
            yield f"{indent}{name}: {_words(value)}"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(_words(entry) for entry in value.values())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _unusable(reason: str) -> int:
    print(f"error: {one_line(reason)}", file=sys.stderr)
    return UNUSABLE
