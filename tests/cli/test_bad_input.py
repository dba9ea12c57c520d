"""What a person can get wrong ends in one line."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from autoformer.export.engines.tensorrt_versions import tensorrt_missing
from tests.support.commands import command
from tests.support.folders_of_runs import digest_of
from tests.support.short_runs import QUICKSTART, shortened
from tests.support.small_images import draw_images

# --- bad input ---------------------------------------------------------------------------------------------------


def test_an_unknown_recipe_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    answer = command("run", QUICKSTART, "--out", tmp_path / "r", "--set", "train.epoch=5")
    assert "did you mean 'train.epochs'" in answer.error
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "setting",
    [
        "train.epochs=-1", "train.epochs=many", "seed", "seed.deep=1", "=3", "seed=-1", "seed=99999999999999999999",
        "threads=100000000", "train.warmup_epochs=.inf", "train.augment.scale=[1.2, 0.5]",
        "train.augment.crop_scale=[2, 0.1]",
        "train.augment.rand_augment=garbage", "train={mixup: 1, batch_size: 33}", "space.patch_size=0",
        "export.precisions=[int8]", "export.formats=[tensorrt]", "data.image_size=100000",
        "train=" + "[" * 3000, "train.epochs=" + "9" * 5000,
    ],
)  # fmt: skip
def test_an_impossible_setting_is_one_line(tmp_path: Path, setting: str) -> None:
    answer = command("run", QUICKSTART, "--out", tmp_path / "r", "--set", setting)
    assert len(answer.error) < 700
    assert not (tmp_path / "r").exists()


def test_limits_in_a_recipe_may_be_plain_numbers(tmp_path: Path) -> None:
    answer = command("run", QUICKSTART, "--out", tmp_path / "r", "--set", "budget.max_params=1000", "--quiet")
    assert "max_params=1k cannot be met" in answer.error


@pytest.mark.parametrize("name", ["2024", "no", "a: b", "pho # tos", "[x]"])
def test_a_data_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert "holds no images" in command("run", QUICKSTART, "--data", tmp_path / name, "--out", tmp_path / "r").error


@pytest.mark.parametrize(
    "words", [("run", "--nope"), ("train",), ("predict", "x", "y", "--top", "0"), ("profile", "run", "x", "--batch", "0")]
)
def test_wrong_words_on_the_command_line_are_one_line(words: tuple[str, ...]) -> None:
    assert command(*words).code == 2
    assert "--help" in command(*words).error


def test_an_image_that_cannot_be_read_ends_a_run_before_any_training(tmp_path: Path) -> None:
    draw_images(tmp_path / "images", ("a", "b"), each=8)
    for path in (tmp_path / "images" / "a").iterdir():
        path.write_bytes(b"broken")
    answer = command("run", QUICKSTART, "--data", tmp_path / "images", "--out", tmp_path / "r", "--quiet")
    assert "cannot be read as an image" in answer.error
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("out", ["file.txt/run", "file.txt"])
def test_an_output_that_cannot_be_a_folder_is_one_line(tmp_path: Path, out: str) -> None:
    (tmp_path / "file.txt").write_text("precious")
    answer = command("run", QUICKSTART, "--out", tmp_path / out, "--quiet")
    assert "file.txt" in answer.error
    assert (tmp_path / "file.txt").read_text() == "precious"


def test_profile_run_does_not_overwrite_a_file(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("precious")
    answer = command("profile", "run", finished_run / "export", "--out", tmp_path / "notes.md")
    assert "already exists" in answer.error
    assert (tmp_path / "notes.md").read_text() == "precious"


def test_a_test_reading_by_hand_goes_into_the_ledger_of_its_run(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    before = len(json.loads((run / "test_ledger.json").read_text())["readings"])
    assert command("evaluate", run / "export" / "model.fp32.onnx", "--part", "test", "--quiet").code == 0
    assert len(json.loads((run / "test_ledger.json").read_text())["readings"]) == before + 1


@pytest.mark.parametrize("content", ["", "- a list", "a: [unclosed", "\x00\x01"])
def test_a_file_that_is_no_recipe_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    assert "bad.yaml" in command("run", tmp_path / "bad.yaml", "--out", tmp_path / "r").error


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    assert "nowhere.yaml" in command("run", tmp_path / "nowhere.yaml").error


def test_a_budget_nobody_can_meet_is_refused_before_any_training(tmp_path: Path) -> None:
    answer = command(
        "run", QUICKSTART, "--out", tmp_path / "r", "--set", "budget.max_latency=", "--set", "budget.max_params=1k", "--quiet"
    )
    assert "max_params=1k cannot be met" in answer.error
    assert "cheapest network" in answer.error
    assert "width 48, depth 3" in answer.error
    assert not (tmp_path / "r").exists()


def test_a_latency_nobody_can_meet_is_refused_before_any_training(tmp_path: Path, latency_table: Path) -> None:
    answer = command(
        "run", QUICKSTART, "--out", tmp_path / "r", *shortened(latency_table), "--set", "budget.max_latency=1us", "--quiet"
    )
    assert "max_latency_ms=0.001 ms" in answer.error
    assert "onnxruntime-cpu" in answer.error
    assert not (tmp_path / "r" / "supernet").exists()


@pytest.mark.parametrize("limit", ["fast", "3 apples", "", "5", "-2ms"])
def test_a_limit_that_cannot_be_read_says_how_to_write_it(
    finished_run: Path, latency_table: Path, tmp_path: Path, limit: str
) -> None:
    answer = command(
        "search", "--supernet", finished_run / "supernet", "--out", tmp_path / "s", "--latency-table", latency_table,
        f"--max-latency={limit}",
    )  # fmt: skip
    assert ("write 5ms" if limit == "5" else "2.5ms") in answer.error


def test_a_latency_limit_without_a_table_is_refused(finished_run: Path, tmp_path: Path) -> None:
    answer = command("search", "--supernet", finished_run / "supernet", "--out", tmp_path / "s", "--max-latency", "2ms")
    assert "latency table" in answer.error


def test_an_empty_image_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    answer = command("run", QUICKSTART, "--data", tmp_path / "images", "--out", tmp_path / "r")
    assert "holds no images" in answer.error


def test_a_one_class_folder_is_refused(tmp_path: Path) -> None:
    draw_images(tmp_path / "images", ("only",))
    assert "at least two" in command("run", QUICKSTART, "--data", tmp_path / "images", "--out", tmp_path / "r").error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_also_from_a_loader_process(tmp_path: Path, workers: int) -> None:
    draw_images(tmp_path / "images", ("a", "b"), each=8)
    (tmp_path / "images" / "a" / "003.png").write_bytes(b"broken")
    answer = command(
        "train", QUICKSTART, "--data", tmp_path / "images", "--out", tmp_path / "r", "--set", "train.augment.crop=random_resized",
        "--set", f"train.workers={workers}", "--set", "data.image_size=16", "--quiet",
    )  # fmt: skip
    assert "003.png cannot be read as an image" in answer.error


def test_a_truncated_checkpoint_is_named(finished_run: Path, tmp_path: Path) -> None:
    for name in ("config.json", "architecture.json", "subnet.json"):
        (tmp_path / name).write_bytes((finished_run / "finetuned" / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes((finished_run / "finetuned" / "model.safetensors").read_bytes()[:5000])
    assert "model.safetensors is truncated" in command("evaluate", tmp_path).error


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in command("evaluate", tmp_path).error
    assert str(tmp_path) in command("describe", tmp_path).error


def test_predict_refuses_what_is_no_image(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt cannot be read as an image" in command("predict", finished_run / "export", tmp_path / "notes.txt").error
    assert "does not exist" in command("predict", finished_run / "export", tmp_path / "nothing.png").error


@pytest.mark.parametrize(
    ("words", "reader"),
    [
        ("bundle {run} --out {out}", "data.loading.parts_of_record"),
        ("bundle {run} --out {out}.zip", "data.loading.parts_of_record"),
        ("bundle {run}/finetuned --out {out}", "cli.networks.export_source"),
        ("export {run}/finetuned --out {out}", "cli.networks.export_source"),
        ("extract --supernet {run}/supernet --architecture smallest --out {out}", "networks.folders.load_supernet"),
        ("refit {run}/export --network {run}/finetuned --out {out}", "cli.networks.network_and_images"),
        ("import-official weights.pth --space tiny --out {out}", "pretrained.official.import_official"),
    ],
)
def test_an_output_that_exists_is_refused_before_anything_is_read(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, reader: str
) -> None:
    (tmp_path / "there").mkdir()
    for name in ("there/notes.txt", "there.zip"):
        (tmp_path / name).write_text("precious")
    module, _, function = f"autoformer.{reader}".rpartition(".")
    read: list[object] = []
    monkeypatch.setattr(importlib.import_module(module), function, lambda *given, **_: read.append(given))
    asked = words.format(run=finished_run, out=tmp_path / "there").split()
    assert "already exists" in command(*asked).error
    assert read == []


def test_an_existing_output_folder_is_never_overwritten(finished_run: Path) -> None:
    before = digest_of(finished_run / "subnet")
    answer = command(
        "extract", "--supernet", finished_run / "supernet", "--architecture", "smallest", "--out", finished_run / "subnet"
    )
    assert "already exists" in answer.error
    assert "already exists" in command("export", finished_run / "finetuned", "--out", finished_run / "subnet").error
    assert digest_of(finished_run / "subnet") == before


def test_an_unknown_architecture_lists_the_known_ones(finished_run: Path, tmp_path: Path) -> None:
    answer = command("extract", "--supernet", finished_run / "supernet", "--architecture", "huge", "--out", tmp_path / "x")
    assert "smallest" in answer.error
    assert "AutoFormer-T" in command("describe", "AutoFormer-X").error


def test_an_architecture_outside_the_space_is_refused(finished_run: Path, tmp_path: Path) -> None:
    words = ("--architecture", "AutoFormer-T", "--out", tmp_path / "x")
    answer = command("extract", "--supernet", finished_run / "supernet", *words)
    assert "is not in space" in answer.error


def test_a_missing_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "autoformer.profiling.profiles.doctor", None)
    monkeypatch.setattr("autoformer.cli.commands.doctor.doctor", None)

    def absent(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'optuna'", name="optuna")

    monkeypatch.setattr("autoformer.cli.app.app", absent)
    answer = command("doctor")
    assert "pip install optuna" in answer.error


def test_tensorrt_asked_for_by_name_where_it_is_absent_names_the_extra(finished_run: Path, tmp_path: Path) -> None:
    if tensorrt_missing() is None:
        pytest.skip("TensorRT is here")
    answer = command("export", finished_run / "finetuned", "--format", "tensorrt", "--out", tmp_path / "e")
    assert "autoformer-toolchain[tensorrt]" in answer.error
    assert not (tmp_path / "e").exists()


def test_ctrl_c_ends_with_the_exit_code_of_an_interrupt_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autoformer.cli.chain.chain.load_parts", interrupted)
    answer = command("run", QUICKSTART, "--out", tmp_path / "r")
    assert answer.code == 130
    assert answer.err.splitlines()[-1] == "stopped; run the same command again to go on, finished steps are kept"


def test_a_grey_image_goes_into_a_colour_network(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "super"
    settings = ("train.epochs=1", "train.batch_size=8", "data.image_size=16")
    words = [word for setting in settings for word in ("--set", setting)]
    assert command("train", QUICKSTART, "--data", image_folder, "--out", out, "--quiet", *words).code == 0
    assert command("extract", "--supernet", out, "--architecture", "smallest", "--out", tmp_path / "net").code == 0
    Image.new("L", (40, 30), 128).save(tmp_path / "grey.png")
    assert command("predict", tmp_path / "net", tmp_path / "grey.png", "--json").json[0]["classes"]
