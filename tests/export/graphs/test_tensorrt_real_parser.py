"""The rules against NVIDIA's parser, over every model of onnx's operator tests: they agree, or it is written down why not."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.checked_graphs import graph, node
from tests.support.real_tensorrt import NEED, needs_real_tensorrt

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("tensorrt_rules")


@pytest.mark.slow
def test_rules_and_parser_agree_on_the_operator_tests_and_each_difference_is_explained(program: Any) -> None:
    needs_real_tensorrt()
    confusions, disagreements = program.compare()
    for version, confusion in confusions.items():
        assert confusion.total() > 1500
        assert program.agreement(confusion) >= program.LEAST_AGREEMENT, (version, confusion)
    assert [(one.model, one.version, one.words) for one in disagreements if not one.reason] == []


def test_what_is_not_written_down_is_not_explained(program: Any) -> None:
    known = "DeformConv: Assertion failed: creator: Plugin not found, are the plugin name, version, and namespace correct?"
    assert program.explained("passes", [known])[0].startswith("a plugin of TensorRT's plugin library")
    assert program.explained("fails", [known]) == ("", "")
    assert program.explained("passes", [known, "Relu: something else"]) == ("", "")
    assert program.explained("passes", []) == ("", "")
    assert all(one.source for one in program.DIFFERENCES)
    assert program.agreement(Counter({("passes", "read"): 3, ("fails", "refused"): 2, ("fails", "read"): 5})) == 0.5


def test_the_static_verdict_of_a_file_that_onnx_does_not_read_is_neither(program: Any, tmp_path: Path) -> None:
    model = graph([node("Relu", "x")])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 32]))
    onnx.save(model, tmp_path / "good.onnx")
    assert program.static_verdict(tmp_path / "good.onnx", "11.4") == ("passes", ())
    model.ir_version = 200
    (tmp_path / "new.onnx").write_bytes(model.SerializeToString())
    verdict, (words,) = program.static_verdict(tmp_path / "new.onnx", "11.4")
    assert verdict == "unread"
    assert words.startswith("new.onnx is of IR version 200")
    assert program.explained(verdict, [words])[0]


def test_without_tensorrt_rtx_a_test_is_skipped_or_fails_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv(NEED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        needs_real_tensorrt()
    monkeypatch.setenv(NEED, "1")
    with pytest.raises(pytest.fail.Exception, match="not installed"):
        needs_real_tensorrt()
