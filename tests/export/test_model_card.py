"""The README of a bundle: limits, cautions and classes, as a person reads them."""

from __future__ import annotations

from typing import Any

from autoformer.data.preprocessing import Preprocessing
from autoformer.export.bundle import model_card
from autoformer.export.expected import ExpectedResults
from autoformer.export.manifest import Artefact, Manifest


def card(classes: int = 3, **known: Any) -> str:
    artefact = Artefact(
        format="onnx", precision="fp32", status="exported", reason="made here", file="model.fp32.onnx", sha256="0" * 64
    )
    names = tuple(f"class {number}" for number in range(classes))
    manifest = Manifest((artefact,), names, Preprocessing(8, 1, (0.3,), (0.4,)), params=192)
    return model_card(manifest, ExpectedResults(labels=(0, 1), **known))


def test_limits_and_cautions_are_said_where_there_are_some() -> None:
    said = "1 class is not recognised on any test image ('butterfly')."
    text = card(budget={"max_latency_ms": 3.33365, "max_params": 5.87e6}, latency_means="p50, batch 1", cautions=(said,))
    assert f"**Caution:** {said}" in text
    assert (
        "Made to keep max latency 3.33 ms, max params 5.87M (p50, batch 1); `verify` says whether it does on the device." in text
    )
    assert "Made to keep" not in card()
    assert "Caution" not in card()


def test_forty_classes_are_named_and_more_are_cut() -> None:
    assert "class 17)" in card(18)
    assert "class 39, ...)" in card(50)


def test_a_command_and_an_interval_are_as_they_are_typed() -> None:
    why = "pip install 'autoformer-toolchain[tensorrt]' (+0.0 [-1.2, +1.2] points)"
    assert why in card(ship="model.fp32.onnx", ship_why=why)
