"""The many ways to say that memory is short."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import torch

from autoformer.errors import CheckpointError, DataError, memory_shortage, said, to_install

TOO_MUCH = 1 << 55  # bytes


def raised(call: object) -> BaseException:
    assert callable(call)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever the library raises
        call()
    return caught.value


class Fail(Exception):
    """Named as ONNX Runtime names its own."""

    __module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (raised(lambda: torch.empty(TOO_MUCH)), "there is not enough memory"),  # a RuntimeError
        (raised(lambda: np.empty(TOO_MUCH, np.uint8)), "there is not enough memory"),  # numpy's _ArrayMemoryError
        (raised(lambda: bytearray(TOO_MUCH)), "there is not enough memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "there is not enough memory"),
        (Fail("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"), "there is not enough memory"),
        (Fail("Failed to allocate memory for requested buffer of size 4294967296"), "there is not enough memory"),
        (RuntimeError("unable to mmap 12 bytes from file <x>: Cannot allocate memory (12)"), "there is not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "the GPU has not enough memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "the GPU has not"),
        (RuntimeError("can't start new thread"), "no further thread or process can be started"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "no further thread or process"),  # of fork
    ],
)  # fmt: skip
def test_each_way_to_say_that_memory_is_short_is_known(error: BaseException, words: str) -> None:
    assert (memory_shortage(error) or "").startswith(words)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), OSError(errno.ENOSPC, ""), None],
)
def test_other_errors_are_not_taken_for_it(error: BaseException | None) -> None:
    assert memory_shortage(error) is None


def test_a_file_is_not_blamed_alone_where_memory_was_short() -> None:
    blamed, picture = CheckpointError("a.pth is truncated"), DataError("a.png cannot be read")
    blamed.__cause__ = picture.__cause__ = MemoryError()
    assert said(blamed) == "there is not enough memory, or a.pth is truncated"
    assert said(picture) == "a.png cannot be read"  # Pillow says so of damaged files
    assert said(CheckpointError("a.pth is truncated")) == "a.pth is truncated"


def test_all_packages_that_are_missing_are_named_with_one_command() -> None:
    assert to_install("PIL") == "package 'PIL' is missing; install it with: pip install pillow"
    several = "packages 'numpy', 'PIL' are missing; install them with: pip install numpy pillow"
    assert to_install("numpy", "PIL", "numpy") == several
