"""A kit: every file with its digest, small, resumable, and refused where it is not what was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from torch import nn

from autoformer.errors import CheckpointError, MeasurementError, OutputExistsError
from autoformer.export.graphs.external_data import check_external_data
from autoformer.export.program import modules_of
from autoformer.profiling.kits import writing as kit_writing
from autoformer.profiling.kits.kit import Kit, StoppingRule
from autoformer.profiling.kits.writing import KitConfig, write_kit
from autoformer.profiling.tables.design import designed_architectures
from autoformer.space import SearchSpace
from tests.support.kits import RULE, SPACE, small_graph, small_kit


def test_a_kit_holds_the_designed_networks_and_the_digest_of_every_file(tmp_path: Path) -> None:
    kit = small_kit(tmp_path / "kit", count=5, precisions=("fp32", "fp16"), batches=(1, 8))
    assert [network.architecture for network in kit.networks] == designed_architectures(SPACE, 5)
    assert SearchSpace.from_dict(kit.space) == SPACE
    assert kit.batches == (1, 8)
    files = {path.relative_to(tmp_path / "kit").as_posix(): path for path in (tmp_path / "kit").rglob("*") if path.is_file()}
    del files["kit.json"]
    assert kit.files == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert {"board.pyz", "README.md", "networks/weights.bin"} <= set(files)
    for network in kit.networks:
        assert network.input_shape == (1, 8, 8)
        assert set(network.files) == {"fp32", "fp16"}
        for name in network.files.values():
            check_external_data(tmp_path / "kit" / name)
    assert Kit.load(tmp_path / "kit") == kit
    assert not (tmp_path / "kit.work").exists()


def test_the_smallest_a_middle_and_the_largest_network_are_built_twice(tmp_path: Path) -> None:
    kit = small_kit(tmp_path / "kit", count=5)
    assert [network.builds for network in kit.networks] == [2, 1, 2, 1, 2]


def test_an_interrupted_kit_goes_on_with_the_graphs_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def export(network: nn.Module, precision: str, opset: int) -> onnx.ModelProto:
        if len(made) == 2:
            made.append("stopped")
            raise KeyboardInterrupt
        made.append(precision)
        return small_graph(network, precision, opset)

    monkeypatch.setattr(kit_writing, "_graph_of", export)
    with pytest.raises(KeyboardInterrupt):
        write_kit(SPACE, tmp_path / "kit", KitConfig(networks=4, precisions=("fp32",), rule=RULE), program=b"p")
    assert not (tmp_path / "kit").exists()
    write_kit(SPACE, tmp_path / "kit", KitConfig(networks=4, precisions=("fp32",), rule=RULE), program=b"p")
    assert made == ["fp32", "fp32", "stopped", "fp32", "fp32"]
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]


def test_a_folder_of_another_kit_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: object) -> onnx.ModelProto:
        raise KeyboardInterrupt

    monkeypatch.setattr(kit_writing, "_graph_of", export)
    with pytest.raises(KeyboardInterrupt):
        write_kit(SPACE, tmp_path / "kit", KitConfig(networks=4, precisions=("fp32",)), program=b"p")
    with pytest.raises(OutputExistsError, match="holds another run: its count is 4 there and 5 now"):
        write_kit(SPACE, tmp_path / "kit", KitConfig(networks=5, precisions=("fp32",)), program=b"p")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precisions": ("bf16",)}, "no kit in precision 'bf16'"),
        ({"precisions": ()}, "at least one precision"),
        ({"batches": (0,)}, "one batch of one image or more"),
        ({"statistic": "mean"}, "no kit for statistic 'mean'"),
        ({"networks": 3}, "at least 4 networks"),
        ({"opset": 12}, "no kit in opset 12; known are 17 to 25"),
    ],
)
def test_what_no_kit_can_be_made_of_is_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        write_kit(SPACE, tmp_path / "kit", KitConfig(**given), program=b"p")
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_changed_or_lost_is_named(tmp_path: Path) -> None:
    kit = small_kit(tmp_path / "kit")
    graph = tmp_path / "kit" / kit.networks[1].files["fp32"]
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match=f"{graph.name} is another file than the kit was made with"):
        kit.check_files(tmp_path / "kit")
    graph.unlink()
    with pytest.raises(CheckpointError, match=f"{graph.name} is missing"):
        kit.check_files(tmp_path / "kit")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A manifest as JSON."""
    return json.dumps(small_kit(tmp_path_factory.mktemp("kits") / "kit").to_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(format="autoformer/kit/9"), "has format 'autoformer/kit/9', expected"),
        (lambda values: values.pop("rule"), "lacks 'rule'"),
        (lambda values: values["networks"].clear(), "0 networks"),
        (lambda values: values["networks"].append(values["networks"][0]), "different names"),
        (lambda values: values.update(precisions=["bf16"]), "precisions"),
        (lambda values: values.update(batches=[0]), "batches"),
        (lambda values: values["files"].update({"../escape": "0"}), "'../escape' is not inside the kit"),
        (lambda values: values["networks"][0]["files"].update(fp32="/etc/passwd"), "'/etc/passwd' of network .* has no digest"),
        (lambda values: values["networks"][0].update(builds=-1), "takes images"),
        (lambda values: values["rule"].update(min_rounds=1), "not a stopping rule"),
        (lambda values: values["rule"].update(min_runs="few"), "rule.min_runs is 'few', expected a whole number"),
        (lambda values: values.update(networks=7), "networks is 7, expected a list"),
    ],
)
def test_a_damaged_manifest_is_one_line(
    written: str, change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    values = json.loads(written)
    change(values)
    (tmp_path / "kit.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message) as raised:
        Kit.load(tmp_path)
    assert "kit.json" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_rules_that_never_end_are_refused() -> None:
    for given in ({"min_rounds": 5}, {"max_rounds": 5}, {"max_interval": 0.0}, {"seconds": -1.0}, {"min_runs": 0}):
        with pytest.raises(MeasurementError, match="not a stopping rule"):
            StoppingRule(**given)


def test_the_program_of_a_kit_needs_neither_torch_nor_onnx() -> None:
    modules = modules_of("autoformer.cli.board.kit_program")
    assert "autoformer.profiling.kits.measuring" in modules
    assert not {"autoformer.networks.subnet", "autoformer.profiling.kits.writing", "autoformer.export.graphs.onnx_graph"} & set(
        modules
    )
