"""NVIDIA's own parser and builder where they are installed: TensorRT-RTX, which needs no GPU and no driver to parse and build."""

from __future__ import annotations

import importlib.util
import os

import pytest

NEED = "AUTOFORMER_NEED_TENSORRT_RTX"  # set where it must be there, so that nothing is skipped in silence


def needs_real_tensorrt() -> None:
    """Skip the test without TensorRT-RTX; fail it instead where the environment asks for it."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        missing = "TensorRT-RTX is not installed here (pip install tensorrt-rtx)"
        (pytest.fail if os.environ.get(NEED) else pytest.skip)(missing)
