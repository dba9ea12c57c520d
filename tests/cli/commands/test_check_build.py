"""`check --build` and `export --format tensorrt-rtx` as people type them, on a machine without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.export.manifest import Manifest
from tests.support.commands import command
from tests.support.engines import small_subnet, write_graph
from tests.support.real_tensorrt import needs_real_tensorrt


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return OnnxGraph.from_network(small_subnet(), tmp_path_factory.mktemp("check") / "model.onnx").path


def test_a_file_is_judged_by_the_builder_itself(network: Path) -> None:
    needs_real_tensorrt()
    answer = command("check", network, "--target", "tensorrt-rtx", "--build", "--gpu", "RTX 4090")
    assert answer.code == 0, answer.err
    shown = " ".join(answer.out.split())
    for words in ("by TensorRT-RTX 1.", "for sm89", "1 of 1 blocks", "attention in one kernel", "memory while it runs", "MB"):
        assert words in shown
    found = command("check", network, "--target", "tensorrt-rtx", "--build", "--json").json
    assert found["built"]["error"] is None
    assert found["built"]["facts"]["attention recognised"] == "1 of 1 blocks", "what people read"
    assert found["built"]["plan_bytes"] > 1000
    assert len(found["built"]["words"]["attention"]) == 3, "two products and a softmax of the one block"
    assert found["versions"] == ["11.4"]


def test_a_file_that_the_builder_refuses_ends_with_3_and_its_words(tmp_path: Path) -> None:
    needs_real_tensorrt()
    from onnx import helper

    graph = write_graph(tmp_path / "m.onnx", nodes=(helper.make_node("Unique", ["images"], ["logits"], name="odd"),))
    answer = command("check", graph, "--target", "tensorrt-rtx", "--build")
    assert answer.code == 3
    assert "operator Unique of node odd" in answer.out
    assert "nothing fails for" not in answer.out


def test_without_the_builder_the_rules_are_named_and_the_way_to_it(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = command("check", network, "--target", "tensorrt-rtx")
    assert answer.code == 0
    assert "nothing fails by the rules of TensorRT 11.4" in answer.out
    assert "rules of TensorRT 11.4, whose parser TensorRT-RTX shares; with --build its own parser" in answer.err
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    answer = command("check", network, "--target", "tensorrt-rtx", "--build")
    assert (answer.code, "autoformer-toolchain[tensorrt-rtx]" in answer.error) == (2, True)
    assert "--target tensorrt-rtx --build needs no GPU" in command("check", network, "--build").error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpu", "sm89"), "--gpu is of --target tensorrt-rtx --build"),
        (("--target", "tensorrt-rtx", "--build", "--gpu", "orin"), "is a Jetson, which TensorRT-RTX is not made for"),
        (("--target", "tensorrt-rtx", "--version", "10.3"), "--version is of TensorRT"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(network: Path, words: tuple[str, ...], said: str) -> None:
    answer = command("check", network, *words)
    assert answer.code == 2
    assert said in answer.error


@pytest.mark.slow
def test_engines_for_elsewhere_go_through_export_inspect_bundle_and_the_table_of_what_ran(
    finished_run: Path, tmp_path: Path
) -> None:
    needs_real_tensorrt()
    out, words = tmp_path / "out", ("--precision", "fp16", "--no-measure", "--format", "tensorrt-rtx")
    answer = command("export", finished_run / "finetuned", "--out", out, *words, "--gpu", "sm89", "--gpu", "RTX 5090")
    assert answer.code == 0, answer.err
    assert "built ahead of time by TensorRT-RTX 1." in answer.out
    made = Manifest.load(out).find("tensorrt-rtx", "fp16")
    assert made is not None
    assert (made.status, made.file) == ("built", "model.fp16.rtx.plan")
    plan = out / "model.fp16.rtx.plan"
    assert "was built ahead of time and never compared" in command("predict", plan, "docs/digit.png").error
    (inside, *_) = command("inspect", plan, "--json").json
    assert len(inside["attention"]["yes"]) > 0
    assert inside["times"] == []
    assert "its layers were not timed" in command("inspect", plan).err
    assert "built ahead of time" in command("report", "import", out / "manifest.json").out
    rows = command("report", "import", out / "manifest.json", "--json").json
    assert rows[0]["device"] == "none yet: built ahead of time for sm89, sm120"
    answer = command("describe", out, "--json")
    assert "built: built ahead of time" in json.dumps(answer.json)
    bundle = tmp_path / "bundle"
    answer = command("bundle", out, "--out", bundle)
    assert answer.code == 0, answer.err
    assert (bundle / plan.name).read_bytes() == plan.read_bytes()
    answer = command("profile", "run", out, "--seconds", "0.2", "--json")
    assert answer.code == 0, answer.err
    assert any("model.fp16.rtx.plan" in entry["name"] for entry in answer.json["not_measured"])


def test_gpus_without_engines_are_refused(finished_run: Path, tmp_path: Path) -> None:
    answer = command("export", finished_run / "finetuned", "--out", tmp_path / "o", "--gpu", "sm89")
    assert "gpus are those of TensorRT-RTX; add tensorrt-rtx to the formats" in answer.error
    answer = command("export", finished_run / "finetuned", "--out", tmp_path / "o", "--format", "rtx", "--gpu", "h100")
    assert "h100 is a GPU of data centres" in answer.error
