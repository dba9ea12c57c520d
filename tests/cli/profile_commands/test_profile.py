"""`profile run` with several batches, other backends and strictness, and `profile counts`, as typed."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest
import torch

from autoformer.data.preprocessing import Preprocessing
from autoformer.files import read_json
from autoformer.networks.folders import save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.profiling.backends.torch_backend import TorchBackend
from autoformer.profiling.profiles.latency import Profile
from autoformer.space import SearchSpace
from tests.support.commands import command
from tests.support.layer_profiles import graph


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(graph(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_several_batches_make_one_file(model: Path, tmp_path: Path) -> None:
    answer = command("profile", "run", model, "--batches", "1,2", "--seconds", 0.01, "--out", tmp_path / "b.json", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["batches"] == [1, 2]
    assert [entry["measurements"][0]["batch"] for entry in answer.json["profiles"]] == [1, 2]
    assert read_json(tmp_path / "b.json") == answer.json
    assert command("profile", "compare", tmp_path / "b.json", tmp_path / "b.json").code == 0
    assert "give one of them" in command("profile", "run", model, "--batches", "1,2", "--sweep").error
    for words in ("1,x", "²", ""):
        assert "write 1,2,4,8" in command("profile", "run", model, "--batches", words).error
    assert "finite" in command("profile", "run", model, "--seconds", "inf").error


def test_a_backend_is_chosen_and_spinning_is_recorded(model: Path) -> None:
    words = ("profile", "run", model, "--seconds", 0.01, "--json", "--backend", "onnxruntime-cpu", "--spinning")
    found = command(*words).json
    assert [one["settings"] for one in found["measurements"]] == [{"spinning": "on"}]
    assert set(found["metrics"]["model.onnx (onnxruntime-cpu)"]) == {"wall_ms", "cpu_ms"}
    assert not found["not_measured"]  # only what was asked for is missed
    assert "unknown backend 'onnxruntime'" in command("profile", "run", model, "--backend", "onnxruntime").error
    absent = command("profile", "run", model, "--backend", "onnxruntime-tensorrt")
    assert "nothing could be measured" in absent.error


def test_what_is_asked_for_besides_is_in_the_file_and_what_is_missing_is_named(model: Path, tmp_path: Path) -> None:
    answer = command("profile", "run", model, "--seconds", 0.01, "--energy", "--out", tmp_path / "p.json")
    assert answer.code == 0, answer.err
    profile = Profile.load(tmp_path / "p.json")
    assert profile.energy or any(missing.backend == "energy" for missing in profile.not_measured)
    conditions = profile.measurements[0].conditions
    assert conditions is not None
    assert len(conditions.readings) == 6  # before the first visit, and after each of five


def test_strict_ends_with_one_exactly_when_something_is_doubtful(model: Path) -> None:
    answer = command("profile", "run", model, "--seconds", 0.01, "--json", "--strict")
    doubtful = [one for one in answer.json["measurements"] if one["verdict"]["level"] != "VALID"]
    assert answer.code == (1 if doubtful else 0)
    assert ("not VALID" in answer.err) == bool(doubtful)


def test_counts_are_those_of_the_closed_form(tmp_path: Path) -> None:
    space = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
    network = Subnet.from_space(space, space.sample(random.Random(0)))
    preprocessing = Preprocessing(image_size=8, in_chans=1, mean=(0.5,), std=(0.5,))
    save_subnet(network, tmp_path / "net", preprocessing=preprocessing, classes=tuple("0123456789"), record={})
    answer = command("profile", "counts", tmp_path / "net", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["flops"], answer.json["params"]) == (network.cost.flops, network.cost.params)
    assert sum(answer.json["flops_by_operator"].values()) == answer.json["flops"]
    assert answer.json["may_multiply"] == {}
    assert "softmax" in command("profile", "counts", tmp_path / "net").out


@pytest.mark.slow
def test_a_compiled_network_is_a_backend_of_its_own() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    with TorchBackend(network, (3, 2, 2), batch=2, mode="compiled", threads=1) as backend:
        assert (backend.name, backend.settings["mode"]) == ("torch-compiled-cpu", "compiled")
        assert backend.run() is None
        assert backend.enqueue_ms is None
