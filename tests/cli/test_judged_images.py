"""Which images `evaluate` scores: a part, all of them, those of some classes; and what it writes about each."""

from __future__ import annotations

import csv
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix, recall_score

from autoformer.data.ledger import LEDGER
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.metric import score
from tests.support.commands import command
from tests.support.short_runs import QUICKSTART
from tests.support.small_images import draw_images


def draw_digits(root: Path, digits: tuple[int, ...] = (3, 5, 8), each: int = 5, skip: int = 0) -> Path:
    """A folder per digit with images as scikit-learn has them."""
    data = load_digits()
    for digit in digits:
        (root / str(digit)).mkdir(parents=True)
        for index in np.flatnonzero(data.target == digit)[skip : skip + each]:
            pixels = np.round(data.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(root / str(digit) / f"{index:04d}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> Path:
    """A copy of the finished run, with a bundle of it and its archive beside it."""
    folder = tmp_path_factory.mktemp("judged")
    shutil.copytree(finished_run, folder / "run")
    assert command("bundle", folder / "run", "--out", folder / "bundle", "--quiet").code == 0
    with zipfile.ZipFile(folder / "bundle.zip", "w") as archive:
        for path in sorted((folder / "bundle").rglob("*")):
            archive.write(path, Path("bundle") / path.relative_to(folder / "bundle"))
    return folder / "run"


def judged(*words: object) -> Any:
    answer = command("evaluate", *words, "--json", "--quiet")
    assert answer.code == 0, answer.err
    return answer.json


KINDS = ("run", "run/export", "run/export/model.fp32.onnx", "run/finetuned", "bundle", "bundle.zip", "bundle/model.fp32.onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_and_all_that_it_delivered_score_every_image_of_a_folder(run: Path, tmp_path: Path, kind: str) -> None:
    draw_digits(tmp_path / "new", each=8)
    found = judged(run.parent / kind, "--data", tmp_path / "new", "--part", "all")
    assert (found["images"], found["part"], found["source"]) == (24, "all", str(tmp_path / "new"))
    reference = judged(run / "finetuned", "--data", tmp_path / "new", "--part", "all")
    assert abs(found["correct"] - reference["correct"]) <= 1
    assert found["classes"] == [str(digit) for digit in range(10)]
    assert [one["name"] for one in found["per_class"] if one["images"]] == ["3", "5", "8"]


def test_a_run_stands_for_the_fp32_file_that_it_delivered(run: Path) -> None:
    found = judged(run)
    assert found["file"] == str(run / "export" / "model.fp32.onnx")
    assert found["value"] == judged(run / "export" / "model.fp32.onnx")["value"]


def test_of_a_part_it_is_said_how_few_images_are_scored(run: Path, tmp_path: Path) -> None:
    draw_digits(tmp_path / "new", each=20)
    answer = command("evaluate", run, "--data", tmp_path / "new", "--part", "search", "--quiet")
    assert "scored are 9 of 60 images, the search part; --part all scores every image" in answer.err
    assert "scored are" not in command("evaluate", run, "--quiet").err


def test_unasked_every_image_of_others_is_scored_and_of_its_own_those_that_were_held_out(run: Path, tmp_path: Path) -> None:
    draw_digits(tmp_path / "new", each=20)
    others, own = judged(run, "--data", tmp_path / "new"), judged(run, "--data", "digits")
    assert (others["part"], others["images"]) == ("all", 60)
    assert (own["part"], own["images"]) == ("search", judged(run)["images"])
    bare = Path(shutil.copy(run / "export" / "model.fp32.onnx", tmp_path / "bare.onnx"))
    assert judged(bare, "--data", tmp_path / "new")["part"] == "search"


def test_a_folder_with_a_test_part_alone_is_scored_as_test_and_as_all(run: Path, tmp_path: Path) -> None:
    draw_digits(tmp_path / "new" / "test", each=4)
    for part in ("all", "test"):
        assert judged(run, "--data", tmp_path / "new", "--part", part, "--ledger", tmp_path / "ledger.json")["images"] == 12
    assert len(json.loads((tmp_path / "ledger.json").read_text())["readings"]) == 1
    error = command("evaluate", run, "--data", tmp_path / "new", "--part", "search").error
    assert "holds test but no train folder" in error
    assert "give --part all, which scores all of them as they lie" in error


def test_all_parts_of_other_images_are_scored_together(run: Path, tmp_path: Path) -> None:
    for number, part in enumerate(("train", "val", "test")):
        draw_digits(tmp_path / "new" / part, each=3, skip=5 * number)
    found = judged(run, "--data", tmp_path / "new", "--part", "all", "--out", tmp_path / "out")
    assert (found["images"], found["images_of"]) == (27, "all images of train, val, test")
    assert {row["image"].partition("/")[0] for row in rows(tmp_path / "out" / "images.csv")} == {"train", "val", "test"}


def test_one_class_alone_is_scored(run: Path, tmp_path: Path) -> None:
    found = judged(run, "--data", draw_digits(tmp_path, (7,), each=6), "--part", "all")
    (seven,) = [one for one in found["per_class"] if one["images"]]
    assert (seven["name"], seven["images"], seven["recall"]) == ("7", 6, found["value"])


def test_a_class_that_the_network_does_not_know_is_one_clear_line(run: Path, tmp_path: Path) -> None:
    draw_digits(tmp_path / "new")
    shutil.copytree(tmp_path / "new" / "5", tmp_path / "new" / "five")
    error = command("evaluate", run, "--data", tmp_path / "new", "--part", "all").error
    assert "holds class 'five', which" in error
    assert "it knows 0, 1, 2, 3, 4, 5, 6, 7 ..." in error
    error = command("evaluate", run, "--data", draw_images(tmp_path / "shapes"), "--part", "all").error
    assert "knows the classes '0', '1', '2' and 7 more, the images have 'circle', 'cross', 'stripes'; give" in error


def test_all_of_its_own_images_are_said_to_hold_those_it_was_trained_on_and_reading_test_is_counted(
    run: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / LEDGER
    answer = command("evaluate", run, "--part", "all", "--ledger", ledger, "--json", "--quiet")
    assert answer.json["images"] == 1797
    assert "the images that it was trained on are among them" in answer.err
    (reading,) = json.loads(ledger.read_text())["readings"]
    assert (reading["images"], reading["split"]) == (539, load_parts(DataConfig()).test.digest)


@pytest.mark.parametrize("part", ["all", "test"])
def test_how_often_the_test_part_was_read_is_said_when_it_is_read(run: Path, tmp_path: Path, part: str) -> None:
    ledger = tmp_path / LEDGER
    for times in ("for the first time", "2 times by now"):
        answer = command("evaluate", run, "--part", part, "--ledger", ledger, "--json", "--quiet")
        (line,) = [line for line in answer.err.splitlines() if str(ledger) in line]
        assert f"the test part was read {times}" in line
        assert line in answer.json["notes"]
    other = draw_digits(tmp_path / "new" / "test", each=4).parent  # whose readings are counted apart
    assert "for the first time" in command("evaluate", run, "--data", other, "--part", "test", "--ledger", ledger).err
    assert "was read" not in command("evaluate", run, "--quiet").err


def test_its_own_images_are_known_wherever_they_lie_now(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos")
    short = ("--set", "train.epochs=1", "--set", "train.batch_size=8", "--quiet")
    assert command("train", QUICKSTART, "--data", tmp_path / "photos", "--out", tmp_path / "super", *short).code == 0
    assert command("extract", "--supernet", tmp_path / "super", "--architecture", "smallest", "--out", tmp_path / "net").code == 0
    shutil.copytree(tmp_path / "photos", tmp_path / "moved")
    answer = command("evaluate", tmp_path / "net", "--data", tmp_path / "moved", "--part", "all", "--quiet")
    assert "the images that it was trained on are among them" in answer.err
    assert len(json.loads((tmp_path / "net" / LEDGER).read_text())["readings"]) == 1
    (tmp_path / "moved" / "cross" / "000.png").unlink()  # now they are others
    answer = command("evaluate", tmp_path / "net", "--data", tmp_path / "moved", "--part", "all", "--quiet", "--json")
    assert (answer.err, answer.json["images"]) == ("", 41)


def test_images_that_cannot_be_read_are_counted_and_other_files_are_told(run: Path, tmp_path: Path) -> None:
    draw_digits(tmp_path / "new")
    (tmp_path / "new" / "3" / "broken.png").write_bytes(b"no image")
    (tmp_path / "new" / "3" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    answer = command("evaluate", run, "--data", tmp_path / "new", "--part", "all", "--json", "--quiet")
    assert (answer.json["images"], answer.json["unreadable"]) == (15, ["3/broken.png"])
    assert "1 of 16 images cannot be read and are not scored: 3/broken.png" in answer.err
    assert "1 file is not taken as an image (.heic 1)" in answer.err


def test_a_supernet_and_an_unfinished_run_say_what_to_do(run: Path, tmp_path: Path) -> None:
    assert "it is a supernet; cut a network out of it first: autoformer extract" in command("evaluate", run / "supernet").error
    (tmp_path / "half").mkdir()
    for name in ("run.json", "identity.json"):
        shutil.copy(run / name, tmp_path / "half")
    assert "holds an unfinished run; give the same `autoformer run` again" in command("evaluate", tmp_path / "half").error
    assert "it is a search; cut what it chose out first" in command("evaluate", run / "search").error


# --- what is said and written ------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_holds_every_answer_the_classes_the_matrix_and_a_page_with_pictures(run: Path, tmp_path: Path) -> None:
    draw_digits(tmp_path / "new", tuple(range(10)), each=30)
    found = judged(run, "--data", tmp_path / "new", "--part", "all", "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "classes.csv", "confusion.csv", "evaluation.html", "evaluation.json", "images.csv",
    ]  # fmt: skip
    images = rows(tmp_path / "out" / "images.csv")
    labels, named = ([int(row[column]) for row in images] for column in ("class", "named"))
    assert [int(row["image"].partition("/")[0]) for row in images] == labels
    assert score(np.array(named), np.array(labels)).correct == found["correct"] == sum(int(row["right"]) for row in images)
    recalls = [float(row["recall"]) for row in rows(tmp_path / "out" / "classes.csv")]
    assert recalls == pytest.approx(recall_score(labels, named, average=None), abs=1e-6)
    matrix = [[int(row[str(digit)]) for digit in range(10)] for row in rows(tmp_path / "out" / "confusion.csv")]
    assert matrix == confusion_matrix(labels, named).tolist()
    page = (tmp_path / "out" / "evaluation.html").read_text()
    wrong = sorted((row for row in images if row["right"] == "0"), key=lambda row: -float(row["probability"]))
    assert len(re.findall(r'<img src="data:image/jpeg;base64,[A-Za-z0-9+/=]+"', page)) == min(24, len(wrong))
    worst = json.loads((tmp_path / "out" / "evaluation.json").read_text())["mistakes"]
    assert [one["image"] for one in worst] == [row["image"] for row in wrong[:24]]
    assert wrong[0]["image"] in page
    assert "already exists" in command("evaluate", run, "--out", tmp_path / "out").error


def test_a_person_sees_the_score_the_classes_and_the_matrix(run: Path, tmp_path: Path) -> None:
    draw_digits(tmp_path / "new", (1, 8), each=40)
    answer = command("evaluate", run, "--data", tmp_path / "new", "--part", "all", "--quiet")
    lines = answer.out.splitlines()
    assert lines[0].startswith("accuracy on all images")
    (one,) = [line for line in lines if line.startswith("1 ") and "of 40" in line]
    count = next(entry for entry in judged(run, "--data", tmp_path / "new", "--part", "all")["per_class"] if entry["name"] == "1")
    assert f"{count['right']} of 40" in one
    assert any(line.startswith("called (columns), by class (rows)") for line in lines)


def test_of_many_classes_a_person_sees_the_lowest_and_the_most_frequent_confusions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from autoformer.cli.commands.evaluate import _show
    from autoformer.export.judging.per_class import counted

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), 20)
    predicted = np.where(rng.random(600) < labels / 30, labels, (labels + 1) % 30)
    names = [f"class {number:02d}" for number in range(30)]
    _show({**counted(labels, predicted, names), **score(predicted, labels).to_dict(), "images_of": "all images"}, "net")
    out = capsys.readouterr().out
    assert "... 20 with a higher recall" in out
    assert "class 00 " in out
    assert "most often taken for another class" in out
    assert "class 29 " not in out


def test_networks_are_compared_on_every_image_of_others_that_can_be_read(run: Path, tmp_path: Path) -> None:
    draw_digits(tmp_path / "new", each=8)
    (tmp_path / "new" / "3" / "broken.png").write_bytes(b"\x89PNG broken")
    words = (run / "finetuned", run / "export", "--data", tmp_path / "new", "--part", "all", "--seconds", "0.01")
    answer = command("compare", *words, "--json")
    assert answer.code == 0, answer.err
    assert "1 of 25 images cannot be read and are not scored: 3/broken.png" in answer.err
    reference = judged(run / "finetuned", "--data", tmp_path / "new", "--part", "all")
    scores = [row["score"] for row in answer.json["rows"]]
    assert (scores[0]["images"], scores[0]["correct"]) == (24, reference["correct"])
    assert {one["images"] for one in scores} == {24}


@pytest.mark.parametrize(
    ("data", "said"), [(None, "--part all is every image of --data"), ("digits", "holds the images that {run} was trained on")]
)
def test_networks_are_not_compared_on_what_they_were_trained_on(run: Path, data: str | None, said: str) -> None:
    given = () if data is None else ("--data", data)
    answer = command("compare", run, *given, "--part", "all", "--quiet")
    assert said.format(run=run) in answer.error


def test_a_test_part_that_a_comparison_reads_for_several_files_is_told_once(run: Path) -> None:
    answer = command("compare", run, "--part", "test", "--seconds", "0.01")
    assert answer.code == 0, answer.err
    assert answer.err.count("the test part was read") == 1
