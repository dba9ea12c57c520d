"""NVIDIA's ONNX parser in a process of its own, which takes one model after the other and is started again when it dies or hangs.

The parser is that of TensorRT-RTX (`pip install tensorrt-rtx`), which parses without a GPU and without a driver. Started as a
program, this file is the other end: models come in by stdin and answers go out, until nobody asks any more.
"""

from __future__ import annotations

import importlib
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

LIMIT_S = 60  # for one model


class Answer(NamedTuple):
    """What the parser made of a model: `read`, `refused` or `crashed`, with its errors as operator and words."""

    verdict: str
    errors: tuple[str, ...]


class Parser:
    """NVIDIA's parser in a process of its own; a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ask(self, model: bytes, path: Path | None = None) -> Answer:
        """What it says of a model; `path` is where weights beside it are found."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        try:
            _send(process.stdin, str(path or "").encode())
            _send(process.stdin, model)
            if (found := _receive(process.stdout)) is not None:
                return Answer("read" if (said := json.loads(found))["parsed"] else "refused", tuple(said["errors"]))
        except BrokenPipeError:
            pass
        finally:
            timer.cancel()
        self._stop()
        return Answer("crashed", ())

    def version(self) -> str:
        """Of the package asked."""
        code = "import tensorrt_rtx; print(tensorrt_rtx.__version__)"
        return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


def answer() -> None:
    """The other end: what comes in is parsed."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what the library prints is no answer
        trt = importlib.import_module("tensorrt_rtx")
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        trt.init_libnvinfer_plugins(logger, "")
        flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        while (path := _receive(sys.stdin.buffer)) is not None and (model := _receive(sys.stdin.buffer)) is not None:
            network = builder.create_network(flag)
            parser = trt.OnnxParser(network, logger)
            parsed = parser.parse(model, path.decode()) if path else parser.parse(model)
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            words = [f"{error.node_operator()}: {error.desc()}" for error in errors]
            _send(out, json.dumps({"parsed": bool(parsed), "errors": words}).encode())
            del parser, network  # in this order: a parser lives no longer than its network


def _send(pipe: BinaryIO | Any, data: bytes) -> None:
    pipe.write(struct.pack("<q", len(data)) + data)
    pipe.flush()


def _receive(pipe: BinaryIO | Any) -> bytes | None:
    head = pipe.read(8)
    if len(head) < 8:
        return None
    size: int = struct.unpack("<q", head)[0]
    data: bytes = pipe.read(size)
    return data if len(data) == size else None


if __name__ == "__main__":
    answer()
