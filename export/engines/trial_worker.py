"""The process in which strange files are tried: it reads a question a line, and answers with lines of JSON.

A question names a graph, a config, and whether an engine is to be built. What NVIDIA's libraries print goes to the standard error
output, so that it does not get between the answers. `trial.py` starts this and survives it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoformer.errors import AutoformerError
from autoformer.export.engines.builder import EngineBuilder, EngineConfig
from autoformer.export.engines.builder_words import BuilderWords
from autoformer.export.engines.tensorrt_versions import collecting_logger, import_tensorrt
from autoformer.temporary import temporary_folder

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def main() -> None:
    """Answers until nothing more is asked, or its starter is no more."""
    end_with_parent(os.getppid(), signal.SIGKILL)  # amid a build as well
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)

        def tell(phase: str, done: int, steps: int) -> None:
            answers.write(json.dumps({"progress": [phase, done, steps]}) + "\n")

        answers.write(json.dumps({"answer": answer(question, tell)}) + "\n")


def end_with_parent(parent: int, number: signal.Signals) -> None:
    """Lets the system send this process signal `number` when process `parent`, which started it, is gone; on Linux alone."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it was gone before the system was asked
        os.kill(os.getpid(), number)


def answer(question: Mapping[str, Any], tell: Any) -> dict[str, Any]:
    """What became of one graph: "error" with the "step" that it failed in, or "seconds" and "bytes"; "words" of the builder."""
    config, words, step = EngineConfig.from_dict(question["config"]), BuilderWords(), "parsing"
    logger = collecting_logger(import_tensorrt(config.product))
    logger.listener = words.hear
    try:
        EngineBuilder(config).read(Path(question["graph"]))
        found: dict[str, Any] = {}
        if question["build"]:
            step, started = "building", time.monotonic()
            with temporary_folder("trial") as folder:
                built = EngineBuilder(config).build(
                    Path(question["graph"]), folder / "trial.plan", on_progress=tell, any_inputs=True
                )
                found = {"seconds": time.monotonic() - started, "bytes": built.path.stat().st_size}
    except AutoformerError as error:
        return {"error": str(error), "step": step, "words": words.to_dict()}
    finally:
        logger.listener = None
    return {**found, "words": words.to_dict()}


if __name__ == "__main__":
    main()
