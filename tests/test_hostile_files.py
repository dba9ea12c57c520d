"""Edited, damaged and hostile files: each gives one line that names the file, and none reaches a loader, a network or an
allocation that the file's own size does not justify."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import optuna
import pytest
import timm
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from autoformer.architecture import Architecture
from autoformer.checkpoint import read_json, read_metadata, read_tensors, write_tensors
from autoformer.cost import Cost
from autoformer.errors import ArchitectureError, CheckpointError, MeasurementError, OutputExistsError
from autoformer.evaluate import Metric, score
from autoformer.evaluated import Candidate
from autoformer.export.manifest import Artefact, Manifest
from autoformer.export.onnx_model import OnnxModel
from autoformer.export.predictor import Predictor
from autoformer.extract import extract
from autoformer.preprocessing import Preprocessing, PreprocessingError
from autoformer.profiling.latency import profile_artefacts
from autoformer.profiling.report_data import Run
from autoformer.search_result import load_search
from autoformer.space import SearchSpace
from autoformer.study import Study
from autoformer.subnet import Subnet
from autoformer.subnet_folder import load_subnet, save_subnet
from autoformer.training_state import TrainingState
from tests.run_folder import make_run

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=3)
PREPROCESSING = Preprocessing(8, 1, (0.3,), (0.4,))
CLASSES = ("ape", "bee", "cat")
DEEP = "[" * 200_000 + "]" * 200_000


def one_line(refused: Callable[[], object], *words: str) -> None:
    """Runs `refused`, which must raise a `CheckpointError` of one line with all of `words`."""
    with pytest.raises(CheckpointError) as caught:
        refused()
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    subnet = Subnet.from_space(SPACE, SPACE.smallest)
    save_subnet(subnet, tmp_path / "subnet", preprocessing=PREPROCESSING, classes=CLASSES, record={})
    return tmp_path / "subnet"


def edit(path: Path, *keys: str, **changes: Any) -> None:
    """Changes entries of a JSON file, at the place `keys` lead to."""
    whole = json.loads(path.read_text())
    place = whole
    for key in keys:
        place = place[key]
    place.update(changes)
    path.write_text(json.dumps(whole))


# --- JSON and tensors --------------------------------------------------------------------------------------------


def test_a_missing_key_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"held": 1}')
    assert read_json(tmp_path / "a.json", "held") == {"held": 1}
    one_line(lambda: read_json(tmp_path / "a.json", "held", "lost"), "a.json lacks 'lost'; it was edited or damaged")


@pytest.mark.parametrize("content", [DEEP, "1" * 5000, "\xff\x00", ""])
def test_what_is_no_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("latin-1"))
    one_line(lambda: read_json(tmp_path / "a.json"), "a.json cannot be read as JSON")


@pytest.mark.parametrize("read", [read_json, read_tensors, read_metadata])
def test_a_file_that_cannot_be_opened_is_not_called_missing(tmp_path: Path, read: Callable[[Path], object]) -> None:
    place = tmp_path / "weights"
    place.mkdir()  # the one kind of file that even root cannot read
    one_line(lambda: read(place), "weights cannot be read", "directory")
    one_line(lambda: read(tmp_path / "absent"), "absent does not exist")


def test_a_header_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_tensors({"w": torch.zeros(1)}, tmp_path / "w.safetensors", [1])  # type: ignore[arg-type]
    one_line(lambda: read_metadata(tmp_path / "w.safetensors"), "w.safetensors", "list")


# --- folders of a run --------------------------------------------------------------------------------------------


def test_a_search_without_a_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text("{}")
    one_line(lambda: load_search(tmp_path), "search.json lacks 'format'")


@pytest.mark.parametrize(
    ("keys", "changes"),
    [
        (("result",), {"chosen": 99}),
        (("result",), {"front": ["x"]}),
        (("result",), {"searched": 99}),
        (("result",), {"searched": "all"}),
        (("result",), {"baselines": {"dearest": 99}}),
        (("result",), {"baselines": 3}),
        (("result",), {"candidates": []}),
        (("result",), {"candidates": [{}]}),
        (("result", "candidates", 0, "score"), {"images": 10**12}),
        (("result",), {"metric": "loss"}),
        (("result",), {"labels": "00"}),
        (("result", "candidates", 0), {"guesses": "ff"}),
        (("result", "candidates", 0, "score"), {"value": 0.9}),
        (("result", "candidates", 0), {"architecture": [1]}),
        (("result", "candidates", 0), {"cost": {"params": "many", "flops": 1}}),
    ],
)
def test_a_damaged_search_is_refused(tmp_path: Path, keys: Any, changes: dict[str, Any]) -> None:
    make_run(tmp_path / "run")
    edit(tmp_path / "run" / "search" / "search.json", *keys, **changes)
    one_line(lambda: load_search(tmp_path / "run" / "search"), "search.json")


def test_an_empty_record_of_a_supernet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoformer.extract.load_supernet", lambda _: None)
    (tmp_path / "supernet.json").write_text("{}")
    one_line(lambda: extract(tmp_path, SPACE.smallest, tmp_path / "out"), "supernet.json lacks 'data'")


@pytest.mark.parametrize(
    ("name", "keys", "changes"),
    [
        ("test.json", (), {"labels": [99] * 540}),
        ("steps.json", (), {"seconds": {"train": "long"}}),
        ("run.json", ("data", "parts"), {"test": {"images": 0, "digest": ""}}),
        ("run.json", ("data",), {"preprocessing": {}}),
        ("supernet.json", ("history", 0), {"loss": float("nan")}),
        ("subnet.json", ("history", 0, "scores", "network"), {"images": 0}),
        ("run.json", ("recipe",), {"metric": "loss"}),
        ("latency.json", ("measurements", 0, "stats"), {"p50_ms": 0.01}),
        ("latency.json", ("reference",), {"samples_ms": ["a"]}),
    ],
)
def test_a_report_names_the_file_that_cannot_be_right(
    tmp_path: Path, name: str, keys: tuple[Any, ...], changes: dict[str, Any]
) -> None:
    run = make_run(tmp_path / "run")
    edit(next(path for path in run.rglob(name)), *keys, **changes)
    one_line(lambda: Run.load(run), name)


@pytest.mark.parametrize(
    "name", ["run.json", "supernet.json", "search.json", "subnet.json", "latency.json", "test.json", "steps.json"]
)
def test_an_empty_file_of_a_run_is_named_with_the_key_it_lacks(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run")
    next(path for path in run.rglob(name)).write_text("{}")
    one_line(lambda: Run.load(run), f"{name} lacks 'format'")


# --- the study of a search ---------------------------------------------------------------------------------------


def candidate(number: int, guesses: NDArray[np.int64], metric: Metric = "top1") -> Candidate:
    """Scored on images of class 1."""
    return Candidate(
        number=number, generation=0, architecture=SPACE.smallest, cost=Cost(params=1, flops=1), guesses=guesses,
        score=score(guesses, np.ones_like(guesses), metric),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("damage", [b"no database at all, only text " * 40, None])
def test_a_damaged_study_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "study.db"
    Study(f"sqlite:///{path}", "s").add(candidate(0, np.ones(9, np.int64)))
    path.write_bytes(damage or path.read_bytes()[:6000])
    one_line(lambda: Study(f"sqlite:///{path}", "s").evaluations(), f"{path} cannot be read as a study", "move it away")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("stored", [None, "{", "{}", '{"guesses": 3, "score": {}}', DEEP])
def test_a_damaged_evaluation_in_a_study_is_refused(tmp_path: Path, stored: str | None) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    foreign = optuna.create_study(study_name="s", storage=url, direction="maximize")
    trial = foreign.ask()
    if stored is not None:
        trial.set_user_attr("candidate", stored)
    foreign.tell(trial, 0.5)
    one_line(lambda: Study(url, "s").evaluations(), "study.db cannot be read as a study")


def test_a_password_of_a_storage_is_not_shown() -> None:
    with pytest.raises(CheckpointError) as caught:
        Study("nosuch+driver://me:secret@host/db", "s")
    assert "secret" not in str(caught.value)


# --- checkpoints of a training -----------------------------------------------------------------------------------


def trained(folder: Path) -> TrainingState:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = TrainingState(network, optimizer, folder, keep=3, steps_per_epoch=10)
    state.step, state.history = 10, [{"loss": 1.0}]
    return state


NEXT = {"step": 20, "history": [{}, {}]}


@pytest.mark.parametrize(
    ("changes", "extra"),
    [
        (None, {}),
        ({"step": "20", "history": [{}, {}]}, {}),
        ({"step": 20, "history": {}}, {}),
        ({"step": 20, "history": [{}, 3]}, {}),
        ({"step": 20, "history": [{}]}, {}),
        ({**NEXT, "groups": []}, {}),
        ({**NEXT, "groups": [{}]}, {}),
        ({**NEXT, "epoch_sums": {"loss": "x"}}, {}),
        ({**NEXT, "best": {"score": 1}}, {}),
        ({**NEXT, "scaler": {"scale": 1}}, {}),
        (NEXT, {"network.weight": torch.zeros(3, 3)}),
        (NEXT, {"average.weight": torch.zeros(2, 2)}),
        (NEXT, {"other": torch.zeros(2, 2)}),
        (NEXT, {"optimizer.7.step": torch.zeros(())}),
        (NEXT, {"optimizer.x": torch.zeros(())}),
        (NEXT, {"optimizer.0.exp_avg": torch.zeros(5)}),
        (NEXT, {"optimizer.0.other": torch.zeros(())}),
        ({**NEXT, "optimizer": {}}, {}),
        ({**NEXT, "optimizer": 3}, {}),
    ],
)
def test_a_foreign_checkpoint_is_passed_over(tmp_path: Path, changes: Any, extra: dict[str, torch.Tensor]) -> None:
    trained(tmp_path).save()
    first = tmp_path / "step-000000010.safetensors"
    metadata = None if changes is None else {**read_metadata(first), **changes}
    write_tensors({**read_tensors(first), **extra}, tmp_path / "step-000000020.safetensors", metadata)
    fresh = trained(tmp_path)
    fresh.step, fresh.history = 0, []
    with pytest.warns(UserWarning, match=r"step-000000020.*going on from step-000000010\.safetensors instead"):
        fresh.load_newest()
    assert (fresh.step, fresh.epoch, fresh.history) == (10, 1, [{"loss": 1.0}])
    first.unlink()
    one_line(trained(tmp_path).load_newest, "no checkpoint in", "step-000000020.safetensors")


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
        profile_artefacts([path], **numbers)  # type: ignore[arg-type]


def test_a_file_at_the_place_of_the_answer_is_left_alone(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", {})
    kept = Path(shutil.copy(path, tmp_path / "kept.json"))
    with pytest.raises(OutputExistsError, match=r"kept\.json already exists"):
        profile_artefacts([path], out=kept)
    assert kept.read_bytes() == path.read_bytes()
