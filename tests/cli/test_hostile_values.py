"""Values, networks and ONNX files that cannot be right are refused in one line."""

from __future__ import annotations

import json
import shutil
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import timm
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from autoformer.architecture import Architecture
from autoformer.data.preprocessing import Preprocessing, PreprocessingError
from autoformer.errors import ArchitectureError, CheckpointError, MeasurementError, OutputExistsError
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.manifest import Artefact, Manifest
from autoformer.export.predictor import Predictor
from autoformer.networks.folders import load_subnet
from autoformer.profiling.profiles.latency import ProfileRequest, profile_artefacts
from autoformer.space import SearchSpace
from tests.support.edited_folders import CLASSES, PREPROCESSING, SPACE, edit, folder, one_line

__all__ = ["folder"]  # fixtures

# --- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [[], [[1]], "text", 3, None])
def test_values_of_another_kind_are_refused(value: Any) -> None:
    for read in (Architecture.from_dict, SearchSpace.from_dict):
        with pytest.raises(ArchitectureError, match="expected a JSON object"):
            read(value)
    with pytest.raises(CheckpointError, match="expected a JSON object"):
        Preprocessing.from_dict(value)


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dim": 65_537},
        {"embed_dim": 10**5000},
        {"num_heads": (1025,)},
        {"num_heads": (1,) * 1025, "mlp_ratio": (1.0,) * 1025},
        {"mlp_ratio": (0.001,)},  # 0.064 hidden channels
        {"mlp_ratio": (10**400,)},
        {"mlp_ratio": (float("nan"),)},
        {"image_size": 8193},
        {"image_size": 0},
    ],
)
def test_sizes_beyond_belief_are_no_architecture(changes: dict[str, Any]) -> None:
    fits = {"embed_dim": 64, "num_heads": (2,), "mlp_ratio": (2.0,), "image_size": 8192}
    assert Architecture.from_dict(fits).hidden_dims == (128,)
    with pytest.raises(ArchitectureError) as caught:
        Architecture.from_dict({**fits, **changes})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dims": [65_537]},
        {"embed_dims": [48.5]},
        {"embed_dims": ["48"]},
        {"depths": [1025]},
        {"num_heads": [1025]},
        {"image_sizes": [8194]},
        {"patch_size": 2048, "image_sizes": [2048]},
        {"head_dim": 4097},
        {"num_classes": 10_000_001},
        {"mlp_ratios": [0.001]},
        {"mlp_ratios": [1000.0]},
        {"super_embed_dim": 10**9},
        {"norm_eps": float("nan")},
    ],
)
def test_sizes_beyond_belief_are_no_space(changes: dict[str, Any]) -> None:
    assert SearchSpace.from_dict(SPACE.to_dict()) == SPACE
    with pytest.raises(ArchitectureError):
        SearchSpace.from_dict({**SPACE.to_dict(), **changes})


IMPOSSIBLE: list[dict[str, Any]] = [
    {"image_size": 0},
    {"image_size": 8193},
    {"image_size": 8.0},
    {"network_size": 10**6},
    {"in_chans": 2, "mean": (0.1, 0.1), "std": (0.1, 0.1)},
    {"in_chans": 3},
    {"mean": (float("nan"),)},
    {"mean": (10**400,)},
    {"std": (0.0,)},
    {"std": (-1.0,)},
    {"std": ("a",)},
    {"std": 0.5},
    {"interpolation": "nearest"},
    {"interpolation": []},
    {"crop_pct": 0},
    {"crop_pct": 1.1},
    {"crop_pct": float("nan")},
]


@pytest.mark.parametrize("changes", IMPOSSIBLE)
def test_an_impossible_preprocessing_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(PreprocessingError):
        replace(PREPROCESSING, **changes)
    one_line(lambda: Preprocessing.from_dict({**PREPROCESSING.to_dict(), **changes}), "preprocessing")


# --- the folder of a network -------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [*IMPOSSIBLE, {"image_size": 16}, {"extra": 1}])
def test_a_network_with_an_impossible_preprocessing_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder / "config.json", "preprocessing", **changes)
    one_line(lambda: load_subnet(folder), "config.json")


@pytest.mark.parametrize("names", [["ape"], "ape", [1, 2, 3], None])
def test_class_names_must_fit_the_network(folder: Path, names: Any) -> None:
    edit(folder / "config.json", label_names=names)
    one_line(lambda: load_subnet(folder), "config.json", "label_names")


@pytest.mark.parametrize("content", [{}, {"architecture": "autoformer_subnet"}])
def test_an_empty_config_is_refused(folder: Path, content: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(content))
    one_line(lambda: load_subnet(folder), str(folder))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        [],
        {"embed_dim": 10**9},
        {"embed_dim": 65_536, "num_heads": [1024] * 1024, "mlp_ratio": [900.0] * 1024, "head_dim": 4096},  # 10^14 weights
        {"head_dim": 1e30},
        {"img_size": 8192, "patch_size": 1},
        {"img_size": 9},
        {"img_size": "large"},
        {"patch_size": 0},
        {"num_classes": -1},
        {"num_heads": "2222"},
        {"max_relative_position": 10**9},
        {"relative_position": "no"},
        {"norm_eps": "small"},
        {"drop_path_rate": float("nan")},
        {"form": "other"},
        {"super_depth": 10**12},
        {"super_depth": 1},
        {"global_pool": "max"},
    ],
)
def test_impossible_arguments_are_refused_before_memory_is_taken(folder: Path, arguments: Any) -> None:
    if arguments:
        edit(folder / "config.json", "model_args", **arguments)
    else:
        edit(folder / "config.json", model_args=arguments)
    one_line(lambda: load_subnet(folder), str(folder))


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_path": "evil.pth"},
        {"pretrained": True},
        {"pretrained": True, "pretrained_cfg": {"url": "https://example.invalid/evil.pth"}},
        {"pretrained_cfg_overlay": {"file": "evil.pth"}},
        {"cache_dir": "/tmp"},
        {"features_only": True},
    ],
)
def test_a_config_never_reaches_timms_loaders(folder: Path, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []

    def forbid(module: Any, name: str) -> None:
        monkeypatch.setattr(module, name, lambda *_, **__: reached.append(name))

    load_subnet(folder)
    forbid(torch, "load")
    forbid(torch.hub, "load_state_dict_from_url")
    forbid(urllib.request, "urlopen")
    forbid(timm.models._builder, "load_pretrained")
    forbid(timm.models._factory, "load_checkpoint")
    assert cast(Any, load_subnet(folder)[0]).pretrained_cfg["classifier"] == "head"
    edit(folder / "config.json", "model_args", **arguments)
    one_line(lambda: load_subnet(folder), "config.json", "unknown keys")
    assert reached == []


# --- ONNX files, predictors and measurements ---------------------------------------------------------------------


def write_onnx(path: Path, properties: dict[str, Any], outputs: int | str = 3) -> Path:
    """One product of the 64 pixels with ones."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", outputs])
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [64, 3], [1.0] * 192)
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["logits"])]
    graph = helper.make_graph(nodes, "g", [images], [logits], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in properties.items()})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("changes", [*IMPOSSIBLE, {"image_size": 16}])
def test_an_onnx_file_with_an_impossible_preprocessing_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    values = PREPROCESSING.to_dict()
    assert OnnxModel(write_onnx(tmp_path / "good.onnx", {"autoformer.preprocessing": values})).preprocessing == PREPROCESSING
    path = write_onnx(tmp_path / "bad.onnx", {"autoformer.preprocessing": {**values, **changes}})
    one_line(lambda: OnnxModel(path), "bad.onnx", "preprocessing")


@pytest.mark.parametrize("names", ["abc", ["a", "b"], [1, 2, 3], {"a": 1}])
def test_an_onnx_file_with_other_class_names_is_refused(tmp_path: Path, names: Any) -> None:
    path = write_onnx(tmp_path / "bad.onnx", {"autoformer.classes": names})
    one_line(lambda: OnnxModel(path), "bad.onnx", "classes")


def test_class_names_that_do_not_fit_the_logits_are_refused_at_the_first_call() -> None:
    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.zeros((len(images), 3), np.float32)

    images = np.zeros((2, 1, 8, 8), np.float32)
    assert Predictor(Path("x.plan"), "tensorrt", "fp32", None, CLASSES, run)(images).shape == (2, 3)
    one_line(
        lambda: Predictor(Path("x.plan"), "tensorrt", "fp32", None, ("a",), run)(images),
        "x.plan gives logits of 3 classes, expected 1",
    )


def test_an_export_whose_file_was_changed_is_not_measured(tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx", {})
    artefact = Artefact("onnx", "fp32", "exported", "made here", file="m.onnx", sha256="0" * 64)
    Manifest((artefact,), CLASSES, PREPROCESSING, params=192).save(tmp_path)
    one_line(lambda: profile_artefacts([tmp_path]), "m.onnx", "SHA-256")


@pytest.mark.parametrize("numbers", [{"batch": 0}, {"batch": -1}, {"threads": 0}])
def test_measurements_need_a_batch_and_a_thread(tmp_path: Path, numbers: dict[str, int]) -> None:
    path = write_onnx(tmp_path / "m.onnx", {})
    with pytest.raises(MeasurementError, match=rf"{next(iter(numbers))} is -?\d, expected 1 or more"):
        profile_artefacts([path], ProfileRequest(**numbers))  # type: ignore[arg-type]


def test_a_file_at_the_place_of_the_answer_is_left_alone(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", {})
    kept = Path(shutil.copy(path, tmp_path / "kept.json"))
    with pytest.raises(OutputExistsError, match=r"kept\.json already exists"):
        profile_artefacts([path], out=kept)
    assert kept.read_bytes() == path.read_bytes()
