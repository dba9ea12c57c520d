"""The metric of a run on the command line: where a command takes it from, and what `evaluate` makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from autoformer.cli.chain.recipe import parse_recipe
from autoformer.cli.words import metric_of, score_cells
from autoformer.errors import CheckpointError, RecipeError
from autoformer.files import read_json
from autoformer.metric import Difference, Metric, Score
from tests.support.commands import command


@pytest.mark.parametrize(
    ("option", "recipe", "record", "expected"),
    [
        ("macro_f1", "top1", {"metric": "balanced_accuracy"}, "macro_f1"),
        (None, "top1", {"metric": "balanced_accuracy"}, "top1"),
        (None, None, {"metric": "balanced_accuracy"}, "balanced_accuracy"),
        (None, None, {"recipe": {"metric": "macro_f1"}}, "macro_f1"),
        (None, None, {"data": {}}, "top1"),
        (None, None, None, "top1"),
    ],
)
def test_a_metric_comes_from_the_option_then_the_recipe_then_the_training(
    option: str | None, recipe: Metric | None, record: dict[str, Any] | None, expected: Metric
) -> None:
    assert metric_of(option, recipe, record) == expected


def test_a_record_with_an_unknown_metric_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"metric is 'loss', expected one of top1, .*; give --metric"):
        metric_of(None, None, {"metric": "loss"})


def test_a_recipe_with_an_unknown_metric_is_refused() -> None:
    assert parse_recipe({}, ["metric=macro_f1"]).metric == "macro_f1"
    with pytest.raises(RecipeError, match="metric = 'f1'"):
        parse_recipe({}, ["metric=f1"])


@pytest.mark.parametrize("metric", ["top1", "balanced_accuracy", "macro_f1"])
def test_evaluate_gives_the_metric_that_is_asked_for(finished_run: Path, tmp_path: Path, metric: str) -> None:
    """The predictions of the run for the same images, scored by scikit-learn."""
    record = read_json(finished_run / "test.json")
    labels, predicted = record["labels"], record["guesses"]["finetuned"]
    expected = {
        "top1": sum(a == b for a, b in zip(labels, predicted, strict=True)) / len(labels),
        "balanced_accuracy": balanced_accuracy_score(labels, predicted),
        "macro_f1": f1_score(labels, predicted, average="macro"),
    }[metric]
    words = ("evaluate", finished_run / "finetuned", "--part", "test", "--ledger", tmp_path / "ledger.json", "--quiet")
    answer = command(*words, "--metric", metric, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["metric"] == metric
    assert answer.json["value"] == pytest.approx(expected)


def test_a_score_is_printed_with_the_digits_that_its_interval_supports() -> None:
    """Of 50 images 19, of 5,000 images 1,900; the intervals are Wilson's."""
    few, many = Score("top1", 0.38, 0.2586, 0.5185, 50, 19), Score("top1", 0.38, 0.3666, 0.3935, 5000, 1900)
    assert (str(few), few.rounded) == ("38 % [26, 52]", "38 %")
    assert (str(many), many.rounded) == ("38.0 % [36.7, 39.4]", "38.0 %")
    assert score_cells(few.to_dict()) == ("38 %", "26 to 52 %", "50")
    assert score_cells(many.to_dict()) == ("38.0 %", "36.7 to 39.4 %", "5000")


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.32, 0.181, 0.452, "+32 [+18, +45]"),
        (-0.0111, -0.0204, -0.0012, "-1.1 [-2.0, -0.1]"),
        (-0.001, -0.151, 0.148, "+0 [-15, +15]"),  # no zero with a minus
        (0.0012, None, None, "+0.12"),
    ],
)
def test_a_difference_is_printed_with_the_digits_that_its_interval_supports(
    value: float, low: float | None, high: float | None, said: str
) -> None:
    assert str(Difference(value, low, high, tied=False)) == said
