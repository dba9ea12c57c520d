"""Small stand-ins whose answers are known by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType


class ScriptedClock:
    """A clock in nanoseconds that moves only when it is told to."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def advance_ms(self, milliseconds: float) -> None:
        self.now_ns += round(milliseconds * 1e6)


class ScriptedBackend:
    """A latency backend whose k-th run (from 0) takes `times_ms(k)` on `clock`, and `cpu_share` of it on `cpu_clock`.

    `log`, when given, receives the backend's `label` at every run.
    """

    def __init__(
        self,
        clock: ScriptedClock,
        times_ms: Callable[[int], float],
        *,
        cpu_clock: ScriptedClock | None = None,
        cpu_share: float = 1.0,
        device_ms: float | None = None,
        name: str = "torch-cpu",
        label: str = "",
        log: list[str] | None = None,
    ) -> None:
        self.clock, self.times_ms, self.cpu_clock, self.cpu_share = clock, times_ms, cpu_clock, cpu_share
        self.device_ms, self.label, self.log = device_ms, label, log
        self.name, self.precision, self.batch = name, "fp32", 2
        self.threads: int | None = 1 if name.endswith("-cpu") else None
        self.settings: Mapping[str, str] = {"mode": "scripted"}
        self.enqueue_ms: float | None = None
        self.run_with_copies: Callable[[], None] = lambda: None
        self.runs, self.closed = 0, False

    def run(self) -> float | None:
        time_ms = self.times_ms(self.runs)
        self.runs += 1
        self.clock.advance_ms(time_ms)
        if self.cpu_clock is not None:
            self.cpu_clock.advance_ms(time_ms * self.cpu_share)
        if self.log is not None:
            self.log.append(self.label)
        return self.device_ms

    def __enter__(self) -> ScriptedBackend:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closed = True
