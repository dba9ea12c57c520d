"""`autoformer predict` for single images and folders: what it takes, what it passes over, what it writes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from autoformer.files import read_json, write_json
from tests.support.commands import command


def draw(folder: Path, count: int = 6) -> list[Path]:
    """Digits as images, in folders inside each other."""
    paths = []
    for index, image in enumerate(load_digits().images[:count]):
        path = folder / ("deep" if index % 2 else ".") / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(path)
        paths.append(path)
    return paths


def test_a_folder_gives_what_its_files_give_one_by_one(finished_run: Path, tmp_path: Path) -> None:
    paths = draw(tmp_path / "photos")
    found = {Path(one["image"]): one["classes"] for one in command("predict", finished_run, tmp_path / "photos", "--json").json}
    single = {Path(one["image"]): one["classes"] for one in command("predict", finished_run / "export", *paths, "--json").json}
    assert found.keys() == single.keys() == set(paths)
    for path, classes in found.items():
        assert [one["name"] for one in classes] == [one["name"] for one in single[path]]
        assert [one["probability"] for one in classes] == pytest.approx([one["probability"] for one in single[path]], abs=1e-6)


@pytest.mark.parametrize("kind", [".", "export", "finetuned", "export/model.fp32.onnx"])
def test_every_form_of_a_network_names_the_images_of_a_folder(finished_run: Path, tmp_path: Path, kind: str) -> None:
    draw(tmp_path / "photos")
    answer = command("predict", finished_run / kind, tmp_path / "photos", "--top", 1, "--json", "--quiet")
    assert answer.code == 0, answer.err
    reference = command("predict", finished_run, tmp_path / "photos", "--top", 1, "--json", "--quiet").json
    assert [one["classes"][0]["name"] for one in answer.json] == [one["classes"][0]["name"] for one in reference]


def test_images_of_a_folder_that_cannot_be_read_are_passed_over_with_a_line_and_a_named_one_ends_it(
    finished_run: Path, tmp_path: Path
) -> None:
    draw(tmp_path / "photos")
    broken = tmp_path / "photos" / "deep" / "broken.png"
    broken.write_bytes(b"no image")
    (tmp_path / "photos" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    answer = command("predict", finished_run, tmp_path / "photos", "--json", "--quiet", "--out", tmp_path / "answers.csv")
    assert answer.code == 0
    assert [one["image"] for one in answer.json if "error" in one] == [str(broken)]
    assert f"not asked about: {broken} cannot be read as an image" in answer.err
    assert "1 file is not taken as an image (.heic 1)" in answer.err
    with (tmp_path / "answers.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 7
    assert [line["image"] for line in lines if not line["class 1"]] == [str(broken)]
    assert "cannot be read as an image" in command("predict", finished_run, broken).error


def test_answers_are_written_as_csv_and_json(finished_run: Path, tmp_path: Path) -> None:
    draw(tmp_path / "photos")
    for name in ("answers.csv", "answers.json"):
        words = ("predict", finished_run, tmp_path / "photos", "--top", 2, "--json", "--quiet", "--out", tmp_path / name)
        found = command(*words).json
    assert json.loads((tmp_path / "answers.json").read_text()) == found
    with (tmp_path / "answers.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["image"], line["class 2"]) for line in lines] == [(one["image"], one["classes"][1]["name"]) for one in found]
    assert float(lines[0]["probability 1"]) == pytest.approx(found[0]["classes"][0]["probability"], abs=1e-6)
    assert "already exists" in command(*words).error
    assert "ends in '.txt'; expected one of .csv, .json" in command(*words[:-1], tmp_path / "answers.txt").error


def test_a_folder_without_images_says_what_lies_there(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.HEIC").touch()
    error = command("predict", finished_run, tmp_path / "phone").error
    assert "phone holds no images, only files of other endings (.heic 1); make JPEGs of them" in error
    asked = command("predict", finished_run, tmp_path / "phone" / "a.HEIC").error
    assert error.partition("; ")[2] == asked.partition("; ")[2]
    (tmp_path / "phone" / "a.png").write_bytes(b"no image")
    assert "no image can be read" in command("predict", finished_run, tmp_path / "phone").error
    assert "nowhere.png does not exist" in command("predict", finished_run, tmp_path / "nowhere.png").error


def test_a_bare_onnx_file_takes_preparation_and_names_from_the_images_it_was_made_for(finished_run: Path, tmp_path: Path) -> None:
    paths = draw(tmp_path / "photos")
    model = onnx.load(finished_run / "export" / "model.fp32.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    assert "or give --data" in command("predict", tmp_path / "bare.onnx", *paths).error
    found = command("predict", tmp_path / "bare.onnx", *paths, "--data", "digits", "--json").json
    for one, other in zip(found, command("predict", finished_run, *paths, "--json").json, strict=True):
        assert [entry["name"] for entry in one["classes"]] == [entry["name"] for entry in other["classes"]]
    assert "--data has no effect" in command("predict", finished_run, *paths, "--data", "digits").error


def test_the_file_that_answers_is_named_in_a_line_and_in_json_and_the_csv_keeps_its_columns(
    finished_run: Path, tmp_path: Path
) -> None:
    (image,) = draw(tmp_path / "photos", 1)
    run, written = tmp_path / "run", tmp_path / "answers.csv"
    shutil.copytree(finished_run, run)

    def named(precision: str, *words: object) -> str:
        file = run / "export" / f"model.{precision}.onnx"
        answer = command("predict", run, image, "--json", "--quiet", *words)
        assert [one["file"] for one in answer.json] == [str(file)]
        (line,) = [line for line in answer.err.splitlines() if str(file) in line]
        return line

    def ship(file: str | None) -> None:
        report = read_json(run / "report.json")
        write_json({**report, "ship": {**(report.get("ship") or {}), "file": file}}, run / "report.json")

    ship("export/model.int8.onnx")
    assert named("int8", "--out", written) == f"answered by {run}/export/model.int8.onnx, the file to ship"
    with written.open(newline="") as file:
        assert next(csv.reader(file))[:2] == ["image", "class 1"]
    ship(None)
    assert named("fp32") == f"answered by {run}/export/model.fp32.onnx"
    alone = command("predict", run / "export" / "model.fp32.onnx", image, "--json", "--quiet")
    assert (alone.err, alone.json[0]["file"]) == ("", str(run / "export" / "model.fp32.onnx"))  # as it was typed


def test_of_an_archive_the_file_inside_is_named(finished_run: Path, tmp_path: Path) -> None:
    (image,) = draw(tmp_path / "photos", 1)
    assert command("bundle", finished_run, "--out", tmp_path / "bundle", "--quiet").code == 0
    archive = Path(shutil.make_archive(str(tmp_path / "bundle"), "zip", tmp_path, "bundle"))
    answer = command("predict", archive, image, "--json", "--quiet")
    folder = command("predict", tmp_path / "bundle", image, "--json", "--quiet")
    assert answer.json[0]["file"] == str(archive / Path(folder.json[0]["file"]).name)
    assert f"answered by {answer.json[0]['file']}" in answer.err
