"""YAML is what its version 1.2 says, and a setting takes values of its own kind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoformer.cli.chain.recipe import load_recipe, parse_recipe
from autoformer.errors import RecipeError
from autoformer.parsing import read_space
from autoformer.settings import MOST_BYTES, fitted, read_yaml, write_yaml

# The core schema of YAML 1.2.2 (section 10.3), and words of version 1.1 that it made texts again.
WORDS: dict[str, Any] = {
    "true": True, "False": False, "TRUE": True, "null": None, "~": None, "": None, "NULL": None,
    "0": 0, "010": 10, "-12": -12, "+12": 12, "0o10": 8, "0x1F": 31,
    "1.5": 1.5, ".5": 0.5, "5.": 5.0, "1e3": 1000.0, "1e-3": 0.001, "-1E+2": -100.0, "-.inf": float("-inf"),
    "yes": "yes", "no": "no", "on": "on", "off": "off", "y": "y", "tRue": "tRue", "nULL": "nULL",
    "1:30": "1:30", "1_000": "1_000", "0b11": "0b11", "-0o10": "-0o10", "2001-01-01": "2001-01-01", "=": "=", ".": ".",
    "1e": "1e",
}  # fmt: skip


def said(text: str) -> Any:
    return fitted(None, read_yaml(text))


@pytest.mark.parametrize(("word", "value"), WORDS.items())
def test_a_word_is_what_the_core_schema_says(word: str, value: Any) -> None:
    found = said(f"key: {word}")["key"]
    assert (found, type(found)) == (value, type(value))
    assert said(f'key: "{word}"') == {"key": word}
    assert (
        parse_recipe(read_yaml(f"data: {{source: {word or '010'}}}")).data.source == (word or "010")
        if value is not None
        else True
    )


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.amp=off", "off"), ("train.epochs=010", 10), ("train.epochs=0o10", 8), ("train.epochs=1e2", 100),
        ("train.learning_rate=1e-3", 0.001), ("train.mixup=1", 1.0), ("train.compile=true", True), ("data.source=a #1", "a #1"),
        ("data.source=010", "010"), ("data.source=it: [x", "it: [x"), ("data.source='a b'", "a b"), ("data.source=true", "true"),
        ("data.group_by=[0-9]+", "[0-9]+"), ("data.group_by=", None), ("data.group_by=null", None), 
        ("data.root=1.10", Path("1.10")),
        ("budget.max_params=6000000", "6000000"), ("export.batch=dynamic", None), ("export.batch=8", 8),
        ("export.engine_batches=[1:1:8, 08]", ("1:1:8", "08")), ("train.teacher={network: 010}", "010"), ("train=", 100),
        ("train.augment=", 0.0), ("train.clip_norm=", None),
    ],
)  # fmt: skip
def test_an_override_is_a_value_of_its_setting(override: str, value: Any) -> None:
    found: Any = parse_recipe({}, [override])
    key = {"train": "train.epochs", "train.augment": "train.augment.flip", "train.teacher": "train.teacher.network"}
    for name in key.get(override.partition("=")[0], override.partition("=")[0]).split("."):
        found = getattr(found, name)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs=yes", "expected a number"), ("train.epochs=true", "expected a number"),
        ("train.epochs=1:30", "expected a number"), ("train.epochs=1_000", "expected a number"),
        ('train.epochs="5"', "expected a number"), ("train.mixup=true", "expected a number"),
        ("threads=false", "expected a number"), ("train.compile=yes", "expected true or false"),
        ("train.compile=1", "expected true or false"), ("space.embed_dims=[192, true]", "expected a number at place 2"),
        ("train.augment.scale=[1, on]", "expected a number at place 2"), ("train.epochs=[", "cannot be read"),
        ("train.epochs={a: 1, a: 2}", "'a' is there twice"), ("train.epochs=" + "9" * 5000, "5000 digits"),
        ("train.amp=no", "'auto', 'off'"), ("data.source=", "valid string"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_in_one_line(override: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({}, [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train:\n  epochs: 3\nsearch:\n  pool: 9\ntrain:\n  epochs: 4\n", "line 5: 'train' is there twice, first in line 1"),
        ("train:\n  epochs: 3\n  # and\n  epochs: 4\n", "line 4: 'epochs' is there twice, first in line 2"),
        ("train: {epochs: 3, 'epochs': 4}", "line 1: 'epochs' is there twice, first in line 1"),
        ("? [a]\n: 3", "line 1: a list or a section cannot be a key"),
        ("a: &a {b: *a}", "line 1: an alias inside of what it stands for"),
        ("seed: !!python/name:os.system ''", "line 1"),
        ("seed: !!int off", "line 1: 'off' is not of int"),
        ("--- {seed: 1}\n--- {seed: 2}", "line 2: expected a single document"),
        ("seed: 1\n\ttrain: 2", "line 2"),
        ("[" * 900 + "]" * 900, "nested too deeply"),
        ("# " + "x" * MOST_BYTES, "longer than"),
    ],
)
def test_a_recipe_that_says_two_things_or_none_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"recipe {tmp_path / 'r.yaml'} cannot be read: ")
    assert "\n" not in str(caught.value)


def test_nested_aliases_are_refused_at_once(tmp_path: Path) -> None:
    """Ten lines that stand for a billion values."""
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"] + [
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    ]
    (tmp_path / "r.yaml").write_text("\n".join([*lines, "seed: *j"]))
    began = time.monotonic()
    with pytest.raises(RecipeError, match="more than 100000 values"):
        load_recipe(tmp_path / "r.yaml")
    assert time.monotonic() - began < 1


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"seed": [["x" * 100] * 1000] * 1000})
    assert len(str(caught.value)) < 300


def test_what_an_alias_repeats_is_a_copy(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "train:\n  augment: &a\n    flip: 0.25\nfinetune:\n  augment:\n    <<: *a\n    erase: 0.5\nspace: &s {}\nbudget: *s\n"
    )
    recipe = load_recipe(tmp_path / "r.yaml", ["train.augment.flip=1", "space.preset=tiny"])
    assert (recipe.train.augment.flip, recipe.finetune.augment.flip, recipe.finetune.augment.erase) == (1.0, 0.25, 0.5)
    (tmp_path / "r.yaml").write_text("train:\n  augment: &a\n    flip: 0.25\nfinetune:\n  augment: *a\n")
    recipe = load_recipe(tmp_path / "r.yaml", ["train.augment.flip=1"])
    assert (recipe.train.augment.flip, recipe.finetune.augment.flip) == (1.0, 0.25)


def test_an_empty_section_has_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("seed: 3\ntrain:\nsearch:  # later\ndata:\n  group_by:\nfinetune:\n  augment:\n  teacher:\n")
    assert load_recipe(tmp_path / "r.yaml") == parse_recipe({"seed": 3})


def test_a_space_is_read_by_the_same_rules(tmp_path: Path) -> None:
    fields = "embed_dims: [010, 48]\ndepths: [1]\nnum_heads: [1]\nmlp_ratios: [1]\nhead_dim: 010\nname: 007\npatch_size: 4\n"
    (tmp_path / "s.yaml").write_text(fields + "image_sizes: [16]\n")
    space = read_space(str(tmp_path / "s.yaml"))
    assert (space.name, space.embed_dims, space.head_dim) == ("007", (10, 48), 10)
    (tmp_path / "s.yaml").write_text(fields + "depths: [2]\n")
    with pytest.raises(RecipeError, match="line 8: 'depths' is there twice, first in line 2"):
        read_space(str(tmp_path / "s.yaml"))


def test_what_is_written_is_read_as_the_same_values_by_both_versions_of_yaml() -> None:
    values = {word or "empty": word for word in WORDS} | {
        "numbers": [1, -2.5, 1e-05, 1e16], "none": None, "flag": True, "text": "a: b #c", "lines": "a\nb", "ü": "ü",
        "merge": "<<",
    }  # fmt: skip
    assert said(write_yaml(values)) == values
    assert yaml.safe_load(write_yaml(values)) == values


def test_a_recipe_survives_being_written_and_read() -> None:
    recipe = parse_recipe({}, ["data.source=010", "train.amp=off", "train.min_learning_rate=1e-7", "budget.max_params=1e6"])
    assert parse_recipe(read_yaml(write_yaml(recipe.model_dump(mode="json")))) == recipe
