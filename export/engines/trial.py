"""A trial of any ONNX file with NVIDIA's own parser and builder, in a process of its own, with limits of time and memory.

A file that somebody else made may bring their libraries down or keep them busy without end; that is an answer like any other. The
engine is thrown away: what counts is whether there is one, and what the builder says of it. TensorRT-RTX builds on any machine,
TensorRT where its GPU is.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from autoformer.errors import MissingPackageError
from autoformer.export.engines.build_progress import OnProgress
from autoformer.export.engines.builder import PRECISIONS, EngineConfig
from autoformer.export.engines.builder_words import layers_told
from autoformer.export.engines.layers import EngineLayers
from autoformer.export.engines.target_gpus import in_words
from autoformer.export.engines.tensorrt_versions import Product, builder_missing, import_tensorrt, titled
from autoformer.export.graphs.onnx_file import OnnxFile
from autoformer.records import fields_to_json

WORKER = "autoformer.export.engines.trial_worker"
LOOK_S = 0.1  # between two looks at the process


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one trial may take."""

    seconds: float = 900.0
    memory_mib: int = 16384


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What became of one file."""

    product: str  # and its version, in words
    gpus: str  # that were built for, in words; empty where the GPU is the one here
    error: str | None = None  # what the parser or the builder said against it, or how the library ended; None: it went well
    step: str = ""  # of the error: parsing, building
    crashed: bool = False  # NVIDIA's library ended the process, or was ended at a limit
    seconds: float | None = None  # of the build
    plan_bytes: int | None = None
    words: Mapping[str, Any] = field(default_factory=dict)  # of the builder, as `BuilderWords` has them

    @property
    def scratch_bytes(self) -> int | None:
        """Memory that the engine takes while it runs, beside its weights."""
        found = self.words.get("memory", {}).get("Max Scratch")
        return None if found is None else int(found)

    @property
    def attention_nodes(self) -> frozenset[str]:
        """ONNX nodes that the builder takes for parts of attention."""
        return frozenset(self.words.get("attention", ()))

    def facts(self, graph: Path, attentions: Sequence[str]) -> dict[str, str]:
        """What the builder made of `graph`, in words by question; `attentions` are the Softmax nodes of its attention blocks."""
        seen = f"{sum(name in self.attention_nodes for name in attentions)} of {len(attentions)} blocks"
        if self.error is not None:
            return {self.step: self.error}
        layers, regions = self.layers(graph), len(self.words.get("regions", ()))
        found = {
            "built": f"in {self.seconds:.1f} s, {_megabytes(self.plan_bytes)}",
            "memory while it runs": _megabytes(self.scratch_bytes),
            "attention recognised": seen if attentions else "none in this network",
            "attention in one kernel": str(layers.attention),
            "layer normalisation fused": str(layers.layer_norm),
            "int8 products that run in int8": str(layers.int8),
            "kernels": f"{len(layers.layers)}, made in {regions} region{'s' * (regions != 1)} of the network",
        }
        if not layers.layers:  # of a version that tells less
            return {question: found[question] for question in ("built", "memory while it runs", "attention recognised")}
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the list of layers."""
        words = {name: value for name, value in self.words.items() if name != "layers"}
        return {**fields_to_json(self), "words": words}

    def layers(self, graph: Path) -> EngineLayers:
        """The layers that were built of `graph`, the file of the trial."""
        return layers_told(str(self.words.get("layers", "")), graph)


class TrialProcess:
    """Tries files one after the other, in a process that is started again when it ended. A context manager.

    Raises `MissingPackageError` where the product is not here.
    """

    def __init__(self, product: Product, limits: Limits = Limits()) -> None:
        if missing := builder_missing(product):
            raise MissingPackageError(missing)
        self.product, self.limits = product, limits
        self.title = titled(import_tensorrt(product))
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None  # what the libraries print
        self._rest = b""

    def __call__(self, graph: Path, *, build: bool, gpus: tuple[str, ...] = (), on_progress: OnProgress | None = None) -> Trial:
        """Reads `graph`, and builds an engine of what it computes in where `build`.

        Raises `CheckpointError` for what is no ONNX file; whatever the libraries do is in the answer.
        """
        precision = OnnxFile.read(graph).precision
        config = EngineConfig(
            format=self.product.format, gpus=gpus, precision=next(name for name in PRECISIONS if PRECISIONS[name] == precision)
        )
        return self.of(graph, config, build=build, on_progress=on_progress)

    def of(self, graph: Path, config: EngineConfig, *, build: bool = True, on_progress: OnProgress | None = None) -> Trial:
        """As above with every setting of `config`, which is one of this product; its layers are described in full."""
        assert config.product is self.product, "a process tries one product"
        question = {"graph": str(graph.resolve()), "build": build, "config": replace(config, detailed=True).to_dict()}
        of: dict[str, Any] = {"product": self.title, "gpus": in_words(config.gpus) if self.product.ahead_of_time else ""}
        found = self._ask(question, on_progress or (lambda phase, done, steps: None))
        if isinstance(found, str):
            return Trial(**of, error=found, step="building" if build else "parsing", crashed=True)
        return Trial(
            **of, error=found.get("error"), step=found.get("step", ""), seconds=found.get("seconds"),
            plan_bytes=found.get("bytes"), words=found["words"],
        )  # fmt: skip

    def _ask(self, question: Mapping[str, Any], tell: OnProgress) -> dict[str, Any] | str:
        """The answer, or how the process ended without one."""
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            until = time.monotonic() + self.limits.seconds
            while True:
                for line in self._lines(process):
                    message = json.loads(line)
                    if "answer" in message:
                        return dict(message["answer"])
                    tell(*message["progress"])
                if process.poll() is not None:
                    return self._ended(process.returncode)
                if time.monotonic() > until:
                    return self._stopped(f"it was stopped after {self.limits.seconds:.0f} s")
                if (used := resident_mib(process.pid)) > self.limits.memory_mib:
                    return self._stopped(f"it was stopped at {used} MiB of memory, of {self.limits.memory_mib} that it may take")
        except BrokenPipeError:
            return self._ended(process.wait())
        except BaseException:
            self.close()
            raise

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._said, self._rest = tempfile.TemporaryFile(), b""  # noqa: SIM115 - as long as the process
            self._process = subprocess.Popen(
                [sys.executable, "-m", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
                start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
        return self._process

    def _lines(self, process: subprocess.Popen[bytes]) -> list[bytes]:
        """Whole lines that came within `LOOK_S`."""
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], LOOK_S)[0]:
            return []
        *lines, self._rest = (self._rest + os.read(process.stdout.fileno(), 1 << 20)).split(b"\n")
        return lines

    def _ended(self, code: int) -> str:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        said = self._last_words()
        self.close()
        return f"the process of {self.title} {how}" + (f": {said}" if said else "")

    def _stopped(self, why: str) -> str:
        self.close()
        return f"{self.title} has no answer: {why}"

    def _last_words(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 2000))
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return " ".join(lines[-1].split())[:200] if lines else ""

    def close(self) -> None:
        """Ends the process; a next trial starts another."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None
        if self._said is not None:
            self._said.close()
            self._said = None

    def __enter__(self) -> TrialProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _megabytes(size: int | None) -> str:
    return "not said" if size is None else f"{size / 1e6:.3g} MB"


def resident_mib(process: int) -> int:
    """Memory of a process that is in use, in MiB; 0 where the system does not say."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    found = next((line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")), "0")
    return int(found) // 1024
