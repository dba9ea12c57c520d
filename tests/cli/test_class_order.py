"""Weights that name no classes, trained by timm on numbered folders: said, named right when asked, and with a hint."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, create_transform, resolve_data_config
from timm.models import save_for_hf

from autoformer.cli.chain.starting import network_and_parts
from autoformer.cli.networks import export_source
from autoformer.data.classes import CLASS_MAP, read_class_map
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, describe_parts
from autoformer.errors import DataError
from autoformer.networks.folders import save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.training.config import TeacherConfig, TrainConfig
from autoformer.training.teacher import Teacher
from tests.support.commands import command
from tests.support.small_images import draw_images
from tests.support.subnets import CLASSES, PREPROCESSING, make_subnet

NUMBERS = tuple(map(str, range(1, 13)))  # as timm sorts them
TEXT = ("1", "10", "11", "12", *map(str, range(2, 10)))


def draw(root: Path) -> Path:
    """Twelve numbered classes, a colour each."""
    rng = np.random.default_rng(0)
    for number in range(1, 13):
        (root / str(number)).mkdir(parents=True)
        for index in range(12):
            hue = np.zeros((24, 24, 3))
            hue[..., number % 3], hue[..., (number + 1) % 3] = 60 + 14 * number, 240 - 18 * number
            hue[(np.arange(24) // (1 + number)) % 2 == 0] *= 0.6
            noisy = (hue + rng.normal(0, 6, hue.shape)).clip(0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(root / str(number) / f"{index:02d}.png")
    return root


def learned(root: Path) -> Any:
    """A network of timm whose classifier is solved for the labels that timm's own reader gives."""
    torch.manual_seed(0)
    network: Any = timm.create_model("test_vit", num_classes=12, img_size=32).eval()
    network.pretrained_cfg["input_size"] = (3, 32, 32)
    taken = {key: network.pretrained_cfg[key] for key in ("mean", "std", "interpolation", "crop_pct")}
    prepare: Any = create_transform((3, 32, 32), is_training=False, **taken)
    dataset: Any = create_dataset("", root=str(root))
    opened = [Image.open(path).convert("RGB") for path, _ in dataset.reader.samples]
    labels = torch.tensor([label for _, label in dataset.reader.samples])
    return solved(network, torch.stack([prepare(image) for image in opened]), labels)


def solved(network: Any, images: torch.Tensor, labels: torch.Tensor) -> Any:
    """The network with a classifier of 12 classes that is right about these images."""
    with torch.no_grad():
        features = network.forward_head(network.forward_features(images), pre_logits=True).double()
        targets = torch.nn.functional.one_hot(labels, 12).double() * 8
        mean, centred = features.mean(0), features - features.mean(0)
        kernel = centred @ centred.T
        kernel += 1e-3 * kernel.diagonal().mean() * torch.eye(len(kernel))
        weight = (centred.T @ torch.linalg.solve(kernel, targets - targets.mean(0))).T
        network.head.weight.copy_(weight.float())
        network.head.bias.copy_((targets.mean(0) - weight @ mean).float())
        assert float((network(images).argmax(1) == labels).float().mean()) > 0.95
    return network


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`numbered/`, the images, and `numbered.pth`, the weights, in one folder; `named/` is the network with its class names."""
    folder = tmp_path_factory.mktemp("order")
    network = learned(draw(folder / "numbered"))
    torch.save(network.state_dict(), folder / "numbered.pth")
    save_for_hf(network, str(folder / "named"), model_config={"label_names": list(NUMBERS)}, model_args={"img_size": 32})
    (folder / "map.txt").write_text("\n".join(NUMBERS))
    return folder


def scored(place: Path, *words: object, network: str | None = None) -> tuple[float, str]:
    """Top-1 on the search part, and what was said of classes."""
    artefact = network or f"timm:test_vit@{place / 'numbered.pth'}"
    answer = command("evaluate", artefact, "--data", place / "numbered", "--json", "--quiet", *words)
    assert answer.code == 0, answer.err
    said = [line for line in answer.err.splitlines() if not line.startswith("scored are ")]  # how few images of all
    return answer.json["value"], "\n".join(said)


def test_a_guessed_order_is_said_in_one_line_and_the_better_one_with_both_numbers(place: Path) -> None:
    value, said = scored(place)
    assert value < 0.3
    guess, hint = said.splitlines()
    assert "does not name its classes, and orders differ: as text 1, 10, 11 (taken here), natural (timm's) 1, 2, 3" in guess
    assert "--classes natural" in guess
    right = scored(place, "--classes", "natural")[0]
    assert f"with classes natural (timm's), 1, 2, 3, {100 * right:.0f} % of the" in hint
    assert f"as taken here, 1, 10, 11, {100 * value:.0f} %" in hint
    assert hint.endswith("give --classes natural")


@pytest.mark.parametrize("words", [("--classes", "natural"), ("--classes", "map.txt")])
def test_an_order_or_a_class_map_gives_the_outputs_their_names(place: Path, words: tuple[str, str]) -> None:
    option, value = words
    accuracy, said = scored(place, option, place / value if value == "map.txt" else value)
    assert accuracy > 0.95
    assert said == ""


def test_a_wrong_order_that_was_asked_for_is_hinted_at(place: Path) -> None:
    accuracy, said = scored(place, "--classes", "text")
    assert accuracy < 0.3
    assert said.splitlines()[0].endswith("give --classes natural")


def test_names_in_a_folder_of_timm_are_used_whatever_order_they_stand_in(place: Path) -> None:
    accuracy, said = scored(place, network=str(place / "named"))
    assert accuracy > 0.95
    assert said == ""
    answer = command("evaluate", place / "named", "--data", place / "numbered", "--classes", "natural")
    assert "--classes has no effect on" in answer.error


def test_a_class_map_of_other_names_is_one_clear_line(place: Path, tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("\n".join([*NUMBERS[:11], "dozen"]))
    words = ("--data", place / "numbered", "--classes")
    answer = command("evaluate", f"timm:test_vit@{place / 'numbered.pth'}", *words, tmp_path / "map.txt")
    assert "numbered holds class '12', which the class map" in answer.error
    assert "it names 'dozen'" in answer.error
    os.mkfifo(tmp_path / "pipe.txt")
    answer = command("evaluate", f"timm:test_vit@{place / 'numbered.pth'}", *words, tmp_path / "pipe.txt")
    assert "pipe.txt is a named pipe, not a file; it was not opened" in answer.error


@pytest.mark.parametrize(("option", "names"), [(None, TEXT), ("natural", NUMBERS)])
def test_an_export_holds_names_labels_and_record_in_the_order_taken(
    place: Path, capsys: pytest.CaptureFixture[str], option: str | None, names: tuple[str, ...]
) -> None:
    network, source = export_source(f"timm:test_vit@{place / 'numbered.pth'}", str(place / "numbered"), classes=option)
    assert source.classes == names
    assert source.data is not None
    assert source.data["classes"] == list(names)
    with torch.no_grad():
        found = network(torch.from_numpy(source.images)).argmax(1).numpy()
    assert source.labels is not None
    assert bool((found == source.labels).mean() > 0.95) == (option is not None)
    said = capsys.readouterr().err.splitlines()
    assert [line.rpartition("; ")[2] for line in said[1:]] == ([] if option else ["give --classes natural"])
    assert len(said) == (0 if option else 2)


def test_predict_names_classes_by_a_class_map_and_asks_for_one(place: Path) -> None:
    words = ("predict", f"timm:test_vit@{place / 'numbered.pth'}", place / "numbered" / "10" / "03.png", "--json")
    assert "does not name its classes; give --classes FILE" in command(*words).error
    answer = command(*words, "--classes", place / "map.txt")
    assert answer.json[0]["classes"][0]["name"] == "10"


def test_predict_opens_no_pipe(place: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photo.png")
    answer = command("predict", place / "named", tmp_path / "photo.png")
    assert "photo.png is a named pipe, not a file" in answer.error
    os.mkfifo(tmp_path / "weights.pth")
    answer = command("evaluate", f"timm:test_vit@{tmp_path / 'weights.pth'}", "--data", place / "numbered")
    assert "weights.pth is a named pipe, not a file" in answer.error


@pytest.mark.slow
def test_a_teacher_speaks_of_the_classes_in_the_order_that_is_set(place: Path) -> None:
    _, source = export_source(f"timm:test_vit@{place / 'numbered.pth'}", str(place / "numbered"), classes="text")
    network = f"timm:test_vit@{place / 'numbered.pth'}"
    images, right = torch.from_numpy(source.images), {}
    for order in ("text", "natural"):
        config = TeacherConfig(network=network, classes=order)
        teacher = Teacher(config, source.preprocessing, source.classes, torch.device("cpu"))
        right[order] = float((teacher(images).argmax(1).numpy() == source.labels).mean())
    assert right["text"] < 0.3
    assert right["natural"] > 0.95
    (place / "short.txt").write_text("\n".join([*NUMBERS, "more"]))
    with pytest.raises(DataError, match="names 13 classes, the data have 12"):
        Teacher(TeacherConfig(network=network, classes=str(place / "short.txt")), source.preprocessing, TEXT, torch.device("cpu"))


def test_a_network_of_ours_keeps_its_head_where_images_hold_its_classes_in_another_order(tmp_path: Path) -> None:
    draw_images(tmp_path / "images", CLASSES, each=8)
    order = tuple(reversed(CLASSES))
    network = make_subnet(num_classes=len(order))
    save_subnet(network, tmp_path / "network", preprocessing=PREPROCESSING, classes=order, record={"data": {}})
    started, parts, new_head = network_and_parts(str(tmp_path / "network"), {"source": str(tmp_path / "images")}, None)
    assert (parts.classes, new_head) == (order, False)
    assert isinstance(started, Subnet)
    assert torch.equal(started.state_dict()["head.weight"], network.state_dict()["head.weight"])
    label = parts.train[0][1]
    assert parts.train.images.name(parts.train.indices[0]).split("/")[0] == order[label]  # type: ignore[union-attr]


def test_trainings_from_before_teachers_had_an_order_are_gone_on_with() -> None:
    before = {"network": "timm:test_vit", "weight": 0.5, "temperature": 1.0, "hard": False}
    assert TrainConfig(teacher=TeacherConfig(network="timm:test_vit")).model_dump(mode="json")["teacher"] == before
    assert TeacherConfig(network="timm:test_vit", classes="natural").model_dump(mode="json") == {**before, "classes": "natural"}


MIXED = ("ant", "Bee", "cat", "Dog", "eel", "Fox", "gnu", "Hen", "ibis", "Jay", "kiwi", "Lynx")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # timm's open files
@pytest.mark.parametrize("classes", [NUMBERS, MIXED])
def test_timm_gets_the_accuracy_of_evaluate_with_our_folder_and_its_class_map_and_another_without(
    place: Path, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    """By its own create_dataset, create_loader and create_model, as its validate.py calls them."""
    for number, name in zip(NUMBERS, classes, strict=True):
        shutil.copytree(place / "numbered" / number, tmp_path / "images" / name)
    parts = load_parts(DataConfig(source=str(tmp_path / "images"), image_size=16, test_fraction=0.1, search_fraction=0.1))
    assert parts.natural_order == classes
    every = [parts.train[position] for position in range(len(parts.train))]
    images = torch.stack([torch.from_numpy(PREPROCESSING(image)) for image, _ in every])
    network = solved(make_subnet(num_classes=12), images, torch.tensor([label for _, label in every]))
    record = {"data": parts.record}
    save_subnet(network, tmp_path / "net", preprocessing=PREPROCESSING, classes=parts.classes, record=record)
    answer = command("evaluate", tmp_path / "net", "--data", tmp_path / "images", "--part", "all", "--json", "--quiet")
    assert answer.json["images"] == 144
    assert answer.json["value"] > 0.8
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()
    right = {}
    for class_map in (str(tmp_path / "net" / CLASS_MAP), ""):
        config = resolve_data_config({}, model=model)
        taken = {key: config[key] for key in ("mean", "std", "interpolation", "crop_pct")}
        dataset: Any = create_dataset("", root=str(tmp_path / "images"), class_map=class_map)
        loader: Any = create_loader(dataset, config["input_size"], 32, use_prefetcher=False, num_workers=0, **taken)
        with torch.no_grad():
            right[class_map] = sum(int((model(batch).argmax(1) == labels).sum()) for batch, labels in loader)
    with_map, without = right.values()
    assert abs(with_map - answer.json["correct"]) <= 1
    assert without < 0.4 * with_map
    assert any("classes are numbered by their names as text" in line for line in describe_parts(parts))


@pytest.mark.slow
def test_exports_bundles_and_comparisons_carry_the_order(place: Path, tmp_path: Path) -> None:
    weights, images = f"timm:test_vit@{place / 'numbered.pth'}", place / "numbered"
    fp32 = ("--precision", "fp32", "--format", "onnx", "--quiet")
    for order in ("text", "natural"):
        words = ("export", weights, "--data", images, "--out", tmp_path / order, "--classes", order, *fp32)
        assert command(*words).code == 0
    assert command("bundle", tmp_path / "natural", "--out", tmp_path / "bundle", "--quiet").code == 0
    for folder in (tmp_path / "natural", tmp_path / "bundle"):
        assert read_class_map(folder / CLASS_MAP) == NUMBERS
        reader: Any = create_dataset("", root=str(images), class_map=str(folder / CLASS_MAP)).reader
        assert reader.class_to_idx == {name: place for place, name in enumerate(NUMBERS)}
        assert scored(place, network=str(folder))[0] > 0.95
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["classes"] == list(NUMBERS)
    value, said = scored(place, network=str(tmp_path / "text"))
    assert value < 0.3
    assert "its names are wrong: export its weights again with --classes natural" in said
    answer = command("compare", tmp_path / "text", tmp_path / "natural", weights, "--data", images, "--seconds", 0.02, "--json",
                     "--classes", "natural")  # fmt: skip
    assert answer.code == 0, answer.err
    scores = {row["name"]: row["score"]["value"] for row in answer.json["rows"]}
    assert sorted(value > 0.95 for value in scores.values()) == [False, True, True]
