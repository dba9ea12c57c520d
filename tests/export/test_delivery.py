"""What was asked for by name and is not there shows in the exit code of an export."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoformer.cli.commands.export import not_delivered
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import ExportError
from autoformer.export import artefacts
from autoformer.export.manifest import Artefact, Manifest
from tests.support.commands import command


def manifest(**statuses: str) -> Manifest:
    """Artefacts by format and precision: onnx_fp32="exported"."""
    made = []
    for name, status in statuses.items():
        format, precision = name.split("_")
        there = {"file": f"model.{precision}", "sha256": "0"} if status == "exported" else {}
        made.append(Artefact(format=format, precision=precision, status=status, reason="a reason", **there))  # type: ignore[arg-type]
    preprocessing = Preprocessing(image_size=8, in_chans=1, mean=(0.5,), std=(0.5,))
    return Manifest(artefacts=tuple(made), classes=("a", "b"), preprocessing=preprocessing, params=1)


def test_a_rejected_file_that_nobody_named_is_an_answer() -> None:
    assert not_delivered(manifest(onnx_fp32="exported", onnx_int8="rejected"), (), ()) == []


@pytest.mark.parametrize(
    ("precisions", "formats", "missing"),
    [
        (("int8",), (), ["int8"]),
        (("fp32", "int8"), (), ["int8"]),
        (("fp32",), (), []),
        ((), ("tensorrt",), []),  # one engine is there
        (("fp16",), ("tensorrt",), ["fp16"]),  # as an ONNX file alone
        (("fp16",), ("onnx", "tensorrt"), []),
        (("int8",), ("onnx",), ["int8"]),
    ],
)
def test_what_was_named_and_has_no_file_is_missing(
    precisions: tuple[str, ...], formats: tuple[str, ...], missing: list[str]
) -> None:
    found = manifest(
        onnx_fp32="exported", onnx_fp16="exported", onnx_int8="rejected", tensorrt_fp32="exported", tensorrt_fp16="rejected",
    )  # fmt: skip
    assert not_delivered(found, precisions, formats) == missing


def test_formats_are_asked_for_in_other_words_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = manifest(onnx_fp32="exported", tensorrt_fp32="exported")
    monkeypatch.setattr("autoformer.export.engines.artefact.how_to_build", lambda product: None)
    monkeypatch.setattr("autoformer.cli.networks.export_source", lambda *words: (None, None))
    monkeypatch.setattr(artefacts, "export_network", lambda *words: found)
    answer = command("export", "net", "--out", tmp_path / "o", "--format", "trt", "--precision", "fp32", "--quiet")
    assert (answer.code, "not delivered" in answer.err) == (0, False)


def test_engines_that_were_all_rejected_are_a_format_that_is_missing() -> None:
    found = manifest(onnx_fp32="exported", tensorrt_fp32="rejected")
    assert not_delivered(found, (), ("tensorrt",)) == ["tensorrt"]
    assert not_delivered(found, ("fp32",), ("tensorrt",)) == ["tensorrt", "fp32"]


@pytest.mark.slow
def test_the_command_ends_with_three_and_keeps_the_other_files(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise ExportError("nothing here can be quantised")

    monkeypatch.setattr(artefacts, "quantize_int8", refuses)
    words = ("export", finished_run / "finetuned", "--no-measure", "--format", "onnx")
    asked = command(*words, "--precision", "int8", "--out", tmp_path / "asked")
    assert asked.code == 3
    assert "not delivered: int8" in asked.err
    assert (tmp_path / "asked" / "model.fp32.onnx").is_file()
    tried = command(*words, "--out", tmp_path / "tried", "--json")
    assert tried.code == 0, tried.err
    assert [one["status"] for one in tried.json["artefacts"]] == ["exported", "exported", "rejected"]
