"""Progress of a build, and stopping it: TensorRT calls back from its own threads, Python's signals wait for the main one.

While TensorRT builds, the main thread is inside its library, where Python handles no signals. Python's wake-up pipe tells of them
all the same; the callback looks into it and answers "stop". 8.6 calls nobody back: there a build ends before it stops.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

OnProgress = Callable[[str, int, int], None]  # phase, steps done, steps in all
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked to stop; what a callback of ours raised is kept here too, since TensorRT cannot pass it on."""

    def __init__(self) -> None:
        self.received: int | None = None  # number of the signal
        self.error: BaseException | None = None
        self._pipe: int | None = None

    def is_set(self) -> bool:
        """Looks at the pipe as well; from any thread."""
        if self._pipe is not None and self.received is None:
            try:
                numbers = os.read(self._pipe, 64)
            except BlockingIOError:
                numbers = b""
            self.received = next((number for number in numbers if number in SIGNALS), None)
        return self.received is not None or self.error is not None


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """A block in which signals are remembered; when it ends, they take the way they would have taken."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread gets signals
        return
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    request._pipe = read

    def remember(number: int, _: Any) -> None:
        request.received = request.received or number

    heeded = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    handlers = {number: signal.signal(number, remember) for number in heeded}
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield request
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        request.is_set()
        request._pipe = None
        os.close(read)
        os.close(write)
        if request.received is not None:
            signal.raise_signal(request.received)  # Ctrl-C raises KeyboardInterrupt here, or what the program wants of it


def progress_monitor(trt: Any, request: StopRequest, on_progress: OnProgress) -> Any:
    """TensorRT's progress monitor, which tells `on_progress` and stops on `request`; None before 10, which has none."""
    if not hasattr(trt, "IProgressMonitor"):
        return None
    lock = threading.Lock()
    totals: dict[str, int] = {}

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            totals[phase_name] = num_steps
            self.tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.tell(phase_name, step + 1)
            return not request.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self.tell(phase_name, totals.get(phase_name, 0))

        def tell(self, phase: str, done: int) -> None:
            try:
                with lock:
                    on_progress(phase, min(done, totals.get(phase, done)), totals.get(phase, done))
            except BaseException as error:  # must not travel through TensorRT; raised when the build has returned
                request.error = request.error or error

    return Monitor()
