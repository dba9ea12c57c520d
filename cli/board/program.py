"""What the two programs for devices share: numbers on the command line, and errors that become one line and an exit code.

Standard library only; works on Python 3.10.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from autoformer.errors import AutoformerError

Answer = tuple[dict[str, Any], bool]  # of a command: what it found, and whether all matches
UNUSABLE, INTERRUPTED = 2, 130  # exit codes


def run_command(
    command: Callable[[argparse.Namespace], Answer],
    arguments: argparse.Namespace,
    shown: Callable[[dict[str, Any]], Iterable[str]],
    *,
    stopped: str,
) -> int:
    """Runs a command, prints its answer (the lines that `shown` makes of it, or JSON), and gives the program's exit code.

    0: all matches, 1: something does not, 2: one line says what cannot be used, 130: Ctrl-C, after which `stopped` is said.
    """
    try:
        answer, good = command(arguments)
        print(json.dumps(answer, indent=2, ensure_ascii=False) if arguments.json else "\n".join(shown(answer)), flush=True)
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        return _unusable(f"package {error.name!r} is missing; install it with: pip install {error.name}")
    except AutoformerError as error:
        return _unusable(" ".join(str(error).split()))
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _unusable(f"{error.filename or 'a file'}: {error.strerror or error}; check the path and its permissions")
    except MemoryError:
        return _unusable("there is not enough memory; end other programs, or take a smaller batch")
    return 0 if good else 1


def whole(words: str) -> int:
    """A number of things on the command line, from 1."""
    if not words.isdecimal() or len(words) > 9 or int(words) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {words[:40]!r}")
    return int(words)


def duration(words: str) -> float:
    """Seconds on the command line, more than 0."""
    try:
        seconds = float(words)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {words[:40]!r}")
    return seconds


def _unusable(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return UNUSABLE
