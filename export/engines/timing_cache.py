"""The timing cache: what TensorRT measured of kernels before, kept in a folder that many builds share.

An entry holds for one device, TensorRT and CUDA, so each combination has a file of its own. A build locks its file: two builds at
once would spoil each other's timings anyway. A cache that TensorRT does not take is set aside, never forced on it. A cache
makes rebuilds faster and steadier, not bit-identical. Runs on boards.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoformer.errors import MeasurementError
from autoformer.export.engines.cuda_runtime import Gpu
from autoformer.files import replacing

WAITING = "waiting for another build that uses this timing cache"


def timing_cache_name(gpu: Gpu, tensorrt: str) -> str:
    """The file for this device and these versions."""
    words = ("timing", f"sm{gpu.compute_capability}", gpu.name, f"trt{tensorrt}", f"cuda{gpu.cuda}")
    return "_".join(re.sub(r"[^a-z0-9.]+", "-", word.lower()).strip("-") for word in words) + ".cache"


@dataclass
class TimingCache:
    """The cache of one build: `attach` before it, `save` after it."""

    path: Path
    before: str | None = None  # SHA-256 of what was loaded; None: nothing
    after: str | None = None
    warnings: list[str] = field(default_factory=list)
    _attached: Any = field(default=None, repr=False)

    def attach(self, config: Any) -> None:
        """Loads the file into the builder's `config`; what is damaged or of another device is set aside, with a warning."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        cache = config.create_timing_cache(content)
        if content and (cache is None or not config.set_timing_cache(cache, False)):
            aside = self.path.with_name(f"{self.path.name}.refused-{_digest(content)[:8]}")
            self.path.replace(aside)
            self.warnings.append(f"timing cache {self.path.name} is damaged or of another device; set aside as {aside.name}")
            content, cache = b"", None
        if not content:
            cache = cache if cache is not None else config.create_timing_cache(b"")
            if cache is None or not config.set_timing_cache(cache, False):
                raise MeasurementError("TensorRT refuses an empty timing cache; build without one")
        self.before = _digest(content) if content else None
        self._attached = cache  # TensorRT's config refers to it

    def save(self, config: Any) -> None:
        """Writes what the build left, together with what others wrote meanwhile where the lock did not reach them."""
        cache = config.get_timing_cache()
        if cache is None:
            return
        there = self.path.read_bytes() if self.path.is_file() else b""
        if there and _digest(there) != self.before:
            others = config.create_timing_cache(there)
            if others is None or not cache.combine(others, False):
                self.warnings.append(f"timing cache {self.path.name} changed during the build and could not be merged; replaced")
        content = bytes(cache.serialize())
        self.after = _digest(content)
        if self.after != self.before or not there:
            try:
                with replacing(self.path) as beside:
                    beside.write_bytes(content)
            except OSError as error:  # a full disk should not cost the engine that was built
                self.after = self.before
                self.warnings.append(f"timing cache {self.path.name} cannot be written ({error.strerror or error})")

    def record(self) -> dict[str, str | None]:
        """File name and digests before and after."""
        return {"file": self.path.name, "before": self.before, "after": self.after}


@contextmanager
def locked_timing_cache(
    folder: Path, gpu: Gpu, tensorrt: str, on_progress: Callable[[str, int, int], None]
) -> Iterator[TimingCache]:
    """The cache of this device in `folder`, which is made; other builds that want it wait until the block ends."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / timing_cache_name(gpu, tensorrt)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress(WAITING, 0, 1)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield TimingCache(path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
