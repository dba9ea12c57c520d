"""Class by class in a report: the table, the confusions, the matrix, and pictures of the worst mistakes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as plotly
import pytest

from autoformer.errors import CheckpointError
from autoformer.export.judging.mistakes import Mistake, save_mistakes
from autoformer.export.judging.per_class import counted
from autoformer.files import read_json, write_json
from autoformer.profiling.reports import content, delivered
from autoformer.profiling.reports.judged import (
    LONGEST_TICK,
    MOST_CLASSES,
    MOST_CONFUSIONS,
    breakable,
    confusion_figure,
    never_right,
    sections,
)
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.run_page import build_report
from tests.support.run_folder import make_run

HOSTILE = "<img src=x onerror=alert(1)>"


def mistaken(run: Path, probability: float = 0.875) -> Mistake:
    """One of the wrong answers of the fp32 file on the test part of a run, as its `test.json` has it."""
    record = read_json(run / "test.json")
    labels, predicted = np.array(record["labels"]), np.array(record["guesses"]["onnx fp32"])
    index = int(np.flatnonzero(labels != predicted)[0])
    return Mistake(
        image=f"{HOSTILE}.png", index=index, label=int(labels[index]), predicted=int(predicted[index]), probability=probability,
        picture=base64.b64encode(b"any bytes").decode(),
    )  # fmt: skip


def save(run: Path, *mistakes: Mistake) -> None:
    save_mistakes(mistakes, run, reader="onnx fp32", split=read_json(run / "test.json")["split"])


def test_the_report_of_a_run_counts_the_delivered_file_class_by_class(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    report = build_report(run)
    record = read_json(run / "test.json")
    assert report["ship"]["file"] == "export/model.int8.onnx"
    labels, predicted = np.array(record["labels"]), np.array(record["guesses"]["onnx int8"])
    assert sum(one["images"] for one in report["judged"]["confusions"]) == int((labels != predicted).sum()) == 12
    for digit, one in enumerate(report["judged"]["per_class"]):
        assert one["right"] == int(((labels == digit) & (predicted == digit)).sum())
    markdown = (run / "report.md").read_text()
    assert "## Class by class" in markdown
    assert "The ONNX int8 file has 12 of 540 images wrong." in markdown
    assert "The worst mistakes" not in markdown  # a run of an earlier version kept no pictures


@pytest.mark.parametrize("shipped", ["export/model.fp32.onnx", "export/model.int8.onnx", None])
def test_the_file_to_ship_is_judged_and_the_pictures_say_how_far_they_speak_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: str | None
) -> None:
    run = make_run(tmp_path / "run")
    save(run, mistaken(run))
    values = read_json(run / "test.json")
    record, precision = values["guesses"], "int8" if shipped == "export/model.int8.onnx" else "fp32"
    otherwise = sum(one != other for one, other in zip(record["onnx fp32"], record["onnx int8"], strict=True))
    wrong = sum(one != other for one, other in zip(values["labels"], record[f"onnx {precision}"], strict=True))

    def ship_values(run: Run) -> dict[str, Any]:
        found = delivered.ship_values(run)
        assert {"export/model.fp32.onnx", "export/model.int8.onnx"} <= {one["file"] for one in found["files"]}, (
            "as a run names them"
        )
        return {**found, "file": shipped}

    monkeypatch.setattr(content, "ship_values", ship_values)
    report = build_report(run)
    said = f"The ONNX int8 file, the one to ship, has another answer to {otherwise} of the 540 images."
    page = (run / "report.md").read_text()
    assert otherwise > 0
    assert (said in page) == (shipped == "export/model.int8.onnx")
    assert f"The ONNX {precision} file has {wrong} of 540 images wrong." in page
    assert sum(one["images"] for one in report["judged"]["confusions"]) == wrong


def test_pictures_of_the_worst_mistakes_stand_in_the_page_with_what_they_were_called(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    mistake = mistaken(run)
    save(run, mistake)
    report = build_report(run)
    assert report["judged"]["mistakes"] == [
        {"image": mistake.image, "class": str(mistake.label), "named": str(mistake.predicted), "probability": 0.875}
    ]
    page = (run / "report.html").read_text()
    assert f'<img src="data:image/jpeg;base64,{mistake.picture}"' in page
    assert f"{mistake.label}, called {mistake.predicted} (88 %): &lt;img src=x" in page
    assert HOSTILE not in page
    assert "img-src data:" in page  # what the page may show
    assert f"* {mistake.label}, called {mistake.predicted} (88 %): &lt;img" in (run / "report.md").read_text()


def test_mistakes_of_another_run_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    mistake = mistaken(run)
    wrong = Mistake(**{**mistake.__dict__, "predicted": mistake.label})
    save(run, wrong)
    with pytest.raises(CheckpointError, match=r"mistakes\.json names a mistake at image \d+ that test\.json does not"):
        build_report(run)
    save_mistakes([mistake], run, reader="onnx fp32", split="another")
    with pytest.raises(CheckpointError, match="of other images than the test part"):
        build_report(run)
    write_json({"format": "autoformer/mistakes/1", "split": read_json(run / "test.json")["split"], "mistakes": [{}]},
               run / "mistakes.json")  # fmt: skip
    with pytest.raises(CheckpointError, match=r"mistakes\.json is damaged"):
        build_report(run)


def test_tables_of_many_classes_are_short_and_say_what_they_leave_out() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 10)
    predicted = np.where(rng.random(1000) < 0.6, labels, rng.integers(0, 100, 1000))
    names = [f"class {number}" for number in range(100)]
    (section,) = sections(counted(labels, predicted, names), (), "the network")
    classes, confused = section.tables
    assert (len(classes.rows), len(confused.rows)) == (MOST_CLASSES, MOST_CONFUSIONS)
    assert "40 classes with a higher recall are left out here" in classes.note
    assert "pairs that are no more frequent left out" in confused.note
    recalls = [float(row[2].split()[0]) for row in classes.rows]
    assert recalls == sorted(recalls)
    assert confusion_figure(counted(labels, predicted, names)) is None  # 10,000 cells say nothing


def test_the_matrix_shows_shares_of_each_class_and_its_words_the_counts() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 0])
    figure = confusion_figure(counted(labels, predicted, [HOSTILE, "b%{x}", "without images"]))
    assert figure is not None
    (plot,) = figure.views.values()
    plotly.Figure(plot)  # it knows every property
    (trace,) = plot["data"]
    assert trace["z"] == [[75.0, 25.0], [50.0, 50.0]]
    assert (trace["texttemplate"], trace["text"]) == ("%{text}", [["3", "1"], ["1", "1"]])
    assert trace["hovertext"][0][1].endswith("called b&#37;{x}: 1 of 4")
    assert "<img" not in str(plot)


def test_a_sentence_counts_in_the_singular_and_says_no_nothing_of_nothing() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    (section,) = sections(counted(labels, predicted, ["a", "b"]), (), "the network")
    assert section.text[0].endswith("right; no class is without a mistake.")
    (section,) = sections(counted(labels, np.array([0, 1, 1, 1]), ["a", "b"]), (), "the network")
    assert section.text[0].endswith("right; in 1 of 2 classes every image is right.")


def test_long_names_are_short_beside_the_matrix_and_whole_when_pointed_at() -> None:
    names = ["flower " * 8 + "red petals", "flower " * 8 + "big petals", "flower and so on and so forth petals", "rose"]
    labels = np.arange(4)
    figure = confusion_figure(counted(labels, labels[::-1], names))
    assert figure is not None
    (plot,) = figure.views.values()
    ticks = plot["layout"]["xaxis"]["ticktext"]
    assert all(len(tick) <= LONGEST_TICK + 4 for tick in ticks)
    assert len(set(ticks)) == 4
    assert ticks[0].startswith("flower")
    assert "petals" in ticks[0]
    assert ticks[3] == "rose"
    assert plot["data"][0]["hovertext"][0][3].startswith(f"{names[0]} called rose")


def test_a_network_that_is_always_right_has_no_matrix_and_no_confusions() -> None:
    labels = np.arange(6) % 3
    judged = counted(labels, labels, ["a", "b", "c"])
    assert confusion_figure(judged) is None
    (section,) = sections(judged, (), "the network")
    assert section.text == ("The network has all 6 images right.",)
    assert [table.title for table in section.tables] == ["Classes, the lowest recall first"]


def test_long_names_may_be_broken_and_stay_themselves() -> None:
    name = "a" * 30 + " " + "b" * 10
    assert breakable(name) == "a" * 24 + "\u200b" + "a" * 6 + " " + "b" * 10
    assert breakable("tabby cat") == "tabby cat"


def test_classes_of_which_no_image_is_recognised_are_a_caution_with_their_names() -> None:
    labels = np.repeat([0, 1, 2, 3], [5, 5, 5, 2])
    guesses = np.where(labels == 1, 1, 0)
    judged = counted(labels, guesses, ("ant", "bee", "cat", "dog"))
    assert never_right(judged) == (
        "1 class is not recognised on any test image ('cat'): train longer, start from a pretrained network, or give more images "
        "of them."
    )
    assert never_right(counted(labels, labels, ("ant", "bee", "cat", "dog"))) is None
