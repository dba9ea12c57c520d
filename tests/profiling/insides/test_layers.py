"""Times of layers joined to torch modules: made-up profiles with known sums, and a real graph under ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from autoformer.errors import CheckpointError
from autoformer.profiling.insides.layers import LayerProfile, common_scope, scope_in_path, scope_of_engine_layer
from autoformer.profiling.insides.onnxruntime_layers import join, layer_times, layers_of_onnx, scopes_of
from tests.support.commands import command
from tests.support.layer_profiles import PROFILE, graph


def test_times_are_added_by_kind_and_by_block() -> None:
    assert PROFILE.sum_ms == 10.0
    assert PROFILE.ratio == 1.25
    assert PROFILE.joined == 1.0
    assert PROFILE.by("kind") == {
        "attention": 4.5, "MLP": 3.0, "embed": 1.0, "copies": 0.5, "head": 0.5, "norm": 0.25, "other": 0.25,
    }  # fmt: skip
    assert list(PROFILE.by("block").items()) == [
        ("blocks.0", 5.5), ("blocks.2", 1.0), ("blocks.10", 1.5), ("outside of blocks", 2.0),
    ]  # fmt: skip


def test_the_profile_is_written_as_trtexec_writes_it() -> None:
    head, first, *_ = PROFILE.to_trtexec()
    assert head == {"count": 4}
    assert first == {"name": "conv", "timeMs": 4.0, "averageMs": 1.0, "medianMs": 1.0, "percentage": 10.0}


def test_a_profile_of_trtexec_is_read_and_joined_to_modules(tmp_path: Path) -> None:
    written = [
        {"count": 3},
        {"name": "Reformatting CopyNode for Input Tensor 0", "timeMs": 3, "averageMs": 1.0, "medianMs": 1.0, "percentage": 10},
        {"name": "node_qkv + node_softmax", "timeMs": 18, "averageMs": 6.0, "medianMs": 5.5, "percentage": 60},
        {"name": "{ForeignNode[node_qkv...node_fc1]}", "timeMs": 9, "averageMs": 3.0, "medianMs": 3.0, "percentage": 30},
    ]
    path = tmp_path / "engine.profile.json"
    path.write_text(json.dumps(written))
    scopes = {"node_qkv": "blocks.0.attn.qkv", "node_softmax": "blocks.0.attn", "node_fc1": "blocks.0.mlp.fc1"}
    found = LayerProfile.load(path, scopes)
    assert (found.runs, found.sum_ms, found.backend, found.ratio) == (3, 10.0, "tensorrt", None)
    assert [one.scope for one in found.layers] == ["", "blocks.0.attn", "blocks.0"]
    assert found.by("kind") == {"attention": 6.0, "other": 3.0, "copies": 1.0}
    assert found.joined == 0.9
    assert found.to_trtexec() == written


def test_our_own_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    path.write_text(json.dumps(PROFILE.to_dict()))
    assert LayerProfile.load(path) == PROFILE


@pytest.mark.parametrize(
    "text", ["[]", "[1]", '[{"count": 1}]', '[{"count": 1}, {"name": "a", "timeMs": 1}]', "{}", '{"format": "other"}']
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"other\.json holds no times of layers"):
        LayerProfile.load(path)


def test_modules_are_found_in_names() -> None:
    assert common_scope(["blocks.1.attn.qkv", "blocks.1.attn"]) == "blocks.1.attn"
    assert common_scope(["blocks.1", "blocks.10"]) == "blocks"
    assert common_scope([]) == ""
    assert scope_in_path("/blocks/blocks.0/attn/MatMul") == "blocks.0.attn"
    assert scope_in_path("/head/Gemm") == "head"
    assert scope_in_path("node_linear_3") == ""
    assert scope_of_engine_layer("/blocks/blocks.3/mlp/fc1/MatMul + /blocks/blocks.3/mlp/act/Erf", {}) == "blocks.3.mlp"


SCOPES = {"node_MatMul_1": "blocks.0.attn.qkv", "node_linear": "blocks.0.attn.qkv", "node_relu": "blocks.0.mlp.act"}
SCOPES["node_MatMul_2"] = "head"


def test_fused_and_inserted_nodes_are_joined_by_name_by_value_and_by_neighbour() -> None:
    executed = helper.make_graph(
        [
            helper.make_node("Reshape", ["images", "shape"], ["flat"], "inserted"),  # its value goes to the product
            helper.make_node("Gemm", ["flat", "w1", "b1"], ["gemm"], "node_MatMul_1/MatMulAddFusion"),
            helper.make_node("Reshape", ["gemm", "shape"], ["biased"], "another"),  # gives what node_linear gave
            helper.make_node("Relu", ["biased"], ["active"], "node_relu"),
            helper.make_node("MatMul", ["active", "w2"], ["inner"], "node_MatMul_2"),
            helper.make_node("ReorderOutput", ["inner"], ["logits_"], "last"),  # nobody takes its value
        ],
        "executed",
        [],
        [],
    )
    found = join(helper.make_model(executed), graph(), SCOPES)
    assert found == {
        "inserted": "blocks.0.attn.qkv",
        "node_MatMul_1/MatMulAddFusion": "blocks.0.attn.qkv",
        "another": "blocks.0.attn.qkv",
        "node_relu": "blocks.0.mlp.act",
        "node_MatMul_2": "head",
        "last": "head",
    }


def test_the_first_runs_of_a_profile_are_left_out() -> None:
    events: list[Mapping[str, Any]] = [
        {"cat": "Session", "name": "model_run", "dur": 999},
        *(
            {"cat": "Node", "name": "a_kernel_time", "dur": dur, "args": {"op_name": "Add"}}
            for dur in (9000, 9000, 1000, 2000, 6000)
        ),
    ]
    (found,) = layer_times(events, {"a": "head"}, runs=3)
    assert (found.total_ms, found.average_ms, found.median_ms) == (9.0, 3.0, 2.0)
    assert (found.name, found.operator, found.scope) == ("a", "Add", "head")


def test_a_real_file_is_taken_apart_and_written_for_others(tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "model.onnx")
    (tmp_path / "model.scopes.json").write_text(json.dumps(SCOPES))
    found = layers_of_onnx(tmp_path / "model.onnx", batch=3, runs=5)
    assert found.joined == 1.0
    assert {one.scope for one in found.layers} >= {"blocks.0.attn.qkv", "head"}
    assert found.runs == 5
    assert found.end_to_end_ms is not None
    assert found.end_to_end_ms > 0
    assert found.ratio == pytest.approx(found.sum_ms / found.end_to_end_ms)

    answer = command(
        "profile", "layers", tmp_path / "model.onnx", "--runs", 3, "--json", "--export-profile", tmp_path / "trt.json"
    )
    assert answer.code == 0, answer.err
    assert answer.json["by_kind_ms"].keys() == found.by("kind").keys()
    written = json.loads((tmp_path / "trt.json").read_text())
    assert written[0] == {"count": 3}
    again = command("profile", "layers", tmp_path / "trt.json", "--scopes", tmp_path / "model.scopes.json")
    assert again.code == 0, again.err
    assert "blocks.0" in again.out
    assert "scopes" in command("profile", "layers", tmp_path / "model.scopes.json").error


def test_modules_that_torch_recorded_in_a_file_are_read(tmp_path: Path) -> None:
    model = graph()
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'blocks.0', 'blocks.0.attn.qkv', 'linear']"
    assert scopes_of(tmp_path / "model.onnx", model)["node_MatMul_1"] == "blocks.0.attn.qkv"


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "layers.json").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"layers\.json holds no times of layers"):
        LayerProfile.load(tmp_path / "layers.json")
