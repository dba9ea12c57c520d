"""Images from loader processes: a lost one is one line that names the setting, and signals are left alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
from torch import Tensor

from autoformer.errors import DataError, TrainingError
from autoformer.training.loader import _loss, loaded

LINE = r"^a loader process .*: lower train.workers \(0: none\), then run the same command again"


class Images:
    """Grey images; asked for the one at `bad`, a loader process does `work`."""

    def __init__(self, bad: int = -1, work: object = None) -> None:
        self.bad, self.work = bad, work

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        if key[0] == self.bad:
            self.work()  # type: ignore[operator]
        return np.full((1, 2, 2), key[0], np.uint8), np.array([key[0], key[1], -1])


def batches(images: Images, workers: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    shares = [[(position, 0)] for position in range(8)]
    return loaded(images, shares, workers=workers, pinned=False, setting="train.workers")  # type: ignore[arg-type]


def fails(error: Exception) -> Images:
    def work() -> None:
        raise error

    return Images(3, work)


def ends_by(number: int) -> Images:
    return Images(3, lambda: os.kill(os.getpid(), number))


@pytest.mark.parametrize(
    "said",
    [
        "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)",
        "received 0 items of ancdata",
        "Too many open files. Communication with the workers is no longer possible.",
    ],
)
def test_a_shortage_of_shared_memory_or_handles_names_the_workers(said: str) -> None:
    with pytest.raises(TrainingError, match=LINE) as caught:
        list(batches(fails(RuntimeError(said))))
    assert said[:40] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert multiprocessing.active_children() == []


def test_processes_that_cannot_be_started_name_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(multiprocessing.Process, "start", refused)
    with pytest.raises(TrainingError, match=LINE):
        list(batches(Images()))


def test_an_error_of_the_images_stays_what_it_is() -> None:
    with pytest.raises(DataError, match=r"^a\.png cannot be read$"):
        list(batches(fails(DataError("a.png cannot be read"))))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        list(batches(fails(RuntimeError("a fault of ours"))))
    with pytest.raises(RuntimeError, match="shared memory"):  # there are no loader processes
        list(batches(fails(RuntimeError("shared memory")), workers=0))


def test_what_ended_a_process_is_told() -> None:
    context = multiprocessing.get_context("fork")
    ways = {"killed (SIGKILL)": lambda: os.kill(os.getpid(), signal.SIGKILL), "ended with code 7": lambda: os._exit(7)}
    for words, way in ways.items():
        process = context.Process(target=way)
        process.start()
        process.join()
        assert words in (_loss(RuntimeError("anything"), [process]) or "")
    assert _loss(RuntimeError("anything"), []) is None


def test_the_handler_for_ended_processes_is_the_one_before_and_their_ctrl_c_is_ours() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    images = batches(Images())
    next(images)
    assert signal.getsignal(signal.SIGCHLD) is before
    for process in multiprocessing.active_children():
        os.kill(process.pid or 0, signal.SIGINT)
    assert [int(pixels[0, 0, 0, 0]) for pixels, _ in images] == list(range(1, 8))


@pytest.mark.slow  # torch looks after its processes every five seconds
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGTERM])
def test_a_killed_loader_process_is_one_line_soon(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with pytest.raises(TrainingError, match=LINE):
        list(batches(ends_by(number), workers=2))
    assert time.monotonic() - began < 30
    assert capfd.readouterr().err == ""
    assert multiprocessing.active_children() == []


def test_no_more_processes_are_started_than_this_one_may_use_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch would warn of more, in a line of its own for each training; warnings are errors here."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    images = batches(Images(), workers=3)
    next(images)
    assert len(multiprocessing.active_children()) == 1
    assert len(list(images)) == 7
