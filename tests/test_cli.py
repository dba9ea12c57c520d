"""Every command through the program, on one short run: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from autoformer.checkpoint import read_tensors, sole_worker, tensors_digest
from autoformer.data import DataConfig, load_parts
from autoformer.errors import OutputExistsError
from autoformer.evaluate import EvaluationSet
from autoformer.export.tensorrt_versions import tensorrt_missing
from autoformer.preprocessing import Preprocessing
from autoformer.space import SearchSpace
from autoformer.subnet import Subnet
from autoformer.subnet_folder import load_subnet, save_subnet
from tests.commands import command
from tests.conftest import QUICKSTART, draw_images, shortened

COMMANDS = (
    "run", "train", "search", "extract", "finetune", "export", "evaluate", "predict", "profile", "report", "describe", "doctor",
)  # fmt: skip


def digest_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_bytes().hex()[:200] for path in sorted(folder.rglob("*")) if path.is_file()}


# --- the run -----------------------------------------------------------------------------------------------------


def test_a_run_leaves_every_part_of_the_chain_and_three_reports(finished_run: Path) -> None:
    for name in (
        "supernet/model.safetensors", "search/search.json", "search/study.db", "subnet/model.safetensors",
        "finetuned/model.safetensors", "export/model.fp32.onnx", "export/model.int8.onnx", "latency.json", "test.json",
        "report.html", "report.md", "report.json",
    ):  # fmt: skip
        assert (finished_run / name).exists(), name


def test_a_finished_run_answers_at_once_and_changes_nothing(finished_run: Path, latency_table: Path) -> None:
    before = digest_of(finished_run)
    answer = command("run", QUICKSTART, "--out", finished_run, "--quiet", "--json", *shortened(latency_table))
    assert answer.code == 0
    assert answer.json["format"] == "autoformer/report/3"
    assert digest_of(finished_run) == before


def test_a_run_of_another_recipe_is_refused_and_nothing_is_lost(finished_run: Path, latency_table: Path) -> None:
    before = digest_of(finished_run)
    answer = command("run", QUICKSTART, "--out", finished_run, *shortened(latency_table), "--set", "train.epochs=9")
    assert "holds another run" in answer.error
    assert digest_of(finished_run) == before


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError), sole_worker(tmp_path), sole_worker(tmp_path):
        pytest.fail("both got in")


def test_the_reported_test_accuracy_is_that_of_the_onnx_file_run_by_hand(finished_run: Path) -> None:
    report = json.loads((finished_run / "report.json").read_text())
    data, parts = load_digits(), load_parts(DataConfig())
    indices = list(parts.test.sealed.indices)
    pixels = np.round(data.images[indices] * 255 / 16) / 255
    mean, std = parts.preprocessing.mean[0], parts.preprocessing.std[0]
    session = onnxruntime.InferenceSession(str(finished_run / "export" / "model.fp32.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: ((pixels - mean) / std)[:, None].astype(np.float32)})
    right = int((np.asarray(logits).argmax(1) == data.target[indices]).sum())
    assert abs(report["test"]["onnx fp32"]["correct"] - right) <= 1  # 8-bit rounding may tip one image


def test_the_test_part_is_read_once_for_each_artefact(finished_run: Path) -> None:
    readings = json.loads((finished_run / "test_ledger.json").read_text())["readings"]
    assert sorted(reading["reader"] for reading in readings) == sorted({reading["reader"] for reading in readings})
    assert {"inherited", "finetuned", "onnx fp32"} <= {reading["reader"] for reading in readings}


def test_the_resolved_recipe_is_stored(finished_run: Path) -> None:
    recipe = json.loads((finished_run / "run.json").read_text())["recipe"]
    assert recipe["train"]["epochs"] == 4
    assert recipe["train"]["learning_rate"] == yaml.safe_load(QUICKSTART.read_text())["train"]["learning_rate"]


# --- the steps as commands of their own --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, finished_run: Path, latency_table: Path) -> Path:
    """The same chain as `finished_run`, command by command."""
    base = tmp_path_factory.mktemp("steps")
    for words in (
        ("train", QUICKSTART, "--out", base / "super", *shortened(latency_table)),
        (
            "search", "--supernet", base / "super", "--out", base / "search", "--max-params", "80%", "--max-flops", "80%",
            "--max-latency", "90%", "--latency-table", latency_table, *(word for setting in (
                "population=6", "generations=2", "parents=3", "mutated=3", "crossed=3", "choose=best",
            ) for word in ("--set", setting)),
        ),
        ("extract", "--supernet", base / "super", "--search", base / "search", "--out", base / "subnet"),
        ("finetune", base / "subnet", "--recipe", QUICKSTART, "--set", "epochs=2", "--out", base / "finetuned"),
        ("export", base / "finetuned", "--out", base / "export", "--precision", "fp32"),
    ):  # fmt: skip
        answer = command(*words)
        assert answer.code == 0, answer.err
    return base


@pytest.mark.slow
def test_the_commands_one_by_one_give_the_weights_of_the_run(steps: Path, finished_run: Path) -> None:
    for here, there in (("super", "supernet"), ("subnet", "subnet"), ("finetuned", "finetuned")):
        mine, theirs = (read_tensors(folder / "model.safetensors") for folder in (steps / here, finished_run / there))
        assert tensors_digest(mine) == tensors_digest(theirs), here


@pytest.mark.slow
def test_search_prints_its_choice_with_the_cost_and_the_qualification(steps: Path) -> None:
    found = json.loads((steps / "search" / "search.json").read_text())
    assert found["latency_qualification"]["backend"] == "onnxruntime-cpu"
    assert found["result"]["searched"] == 12  # and the baselines


@pytest.mark.parametrize("artefact", ["finetuned", "export/model.fp32.onnx", "export"])
def test_evaluate_gives_one_accuracy_whatever_form_the_network_has(finished_run: Path, artefact: str) -> None:
    answer = command("evaluate", finished_run / artefact, "--json", "--quiet")
    assert answer.code == 0, answer.err
    reference = command("evaluate", finished_run / "finetuned", "--json", "--quiet").json
    assert answer.json["images"] == reference["images"]
    assert abs(answer.json["correct"] - reference["correct"]) <= 1


def test_reading_the_test_part_by_hand_is_counted(finished_run: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.json"
    answer = command("evaluate", finished_run / "finetuned", "--part", "test", "--ledger", ledger, "--json")
    assert answer.json["images"] == 539
    assert len(json.loads(ledger.read_text())["readings"]) == 1


def test_predict_names_the_class_with_its_probability(finished_run: Path, tmp_path: Path) -> None:
    parts = load_parts(DataConfig())
    image, _ = parts.train[0]
    image.save(tmp_path / "digit.png")
    answer = command("predict", finished_run / "export", tmp_path / "digit.png", "--top", "10", "--json")
    (found,) = answer.json
    shares = [entry["probability"] for entry in found["classes"]]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    logits = EvaluationSet.of(parts.train, parts.preprocessing).images(1)
    assert logits.shape == (1, 1, 8, 8)
    assert command("predict", finished_run / "finetuned", tmp_path / "digit.png").code == 0


def test_profile_run_measures_what_is_there_and_says_what_is_not(finished_run: Path, tmp_path: Path) -> None:
    answer = command(
        "profile", "run", finished_run / "export", finished_run / "finetuned", "--seconds", "0.1", "--quiet", "--json",
        "--out", tmp_path / "latency.json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert {m["backend"] for m in answer.json["measurements"]} >= {"onnxruntime-cpu", "torch-cpu"}
    assert all(m["stats"]["p50_ms"] > 0 for m in answer.json["measurements"])
    assert answer.json["not_measured"]
    assert (tmp_path / "latency.json").exists()


@pytest.mark.slow
def test_profile_table_writes_a_table_the_search_takes(steps: Path, tmp_path: Path) -> None:
    table = tmp_path / "here.json"
    answer = command(
        "profile", "table", "--supernet", steps / "super", "--backend", "torch-cpu", "--networks", "4", "--out", table, "--quiet"
    )
    assert answer.code == 0, answer.err
    found = command(
        "search", "--supernet", steps / "super", "--out", tmp_path / "s", "--max-latency", "1000ms", "--latency-table", table,
        "--set", "population=2", "--set", "generations=1", "--no-measure", "--json", "--quiet",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert found.json["latency_qualification"]["backend"] == "torch-cpu"


def test_report_build_writes_the_reports_again(finished_run: Path) -> None:
    html = finished_run / "report.html"
    html.unlink()
    answer = command("report", "build", finished_run)
    assert answer.code == 0, answer.err
    assert html.stat().st_size > 100_000


# --- describe and doctor -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "params"), [("T", 5_867_944), ("S", 22_891_432), ("B", 53_691_688)])
def test_describe_gives_the_published_parameters(name: str, params: int) -> None:
    assert command("describe", f"AutoFormer-{name}", "--json").json["params"] == params


@pytest.mark.parametrize("name", ["tiny", "small", "base", "edge", "micro"])
def test_describe_knows_every_space(name: str) -> None:
    facts = command("describe", name, "--json").json
    assert facts["smallest"]["flops"] < facts["middle"]["flops"] < facts["largest"]["flops"]
    assert command("describe", name).code == 0


@pytest.mark.parametrize("folder", ["supernet", "search", "subnet", "finetuned", "export", "."])
def test_describe_knows_every_folder_of_a_run(finished_run: Path, folder: str) -> None:
    answer = command("describe", finished_run / folder, "--json")
    assert answer.code == 0, answer.err
    assert answer.json


def test_describe_shows_what_the_paper_and_the_official_code_count_and_why_they_differ() -> None:
    facts = command("describe", "AutoFormer-T", "--json").json
    assert facts["flops"] == 1_316_945_472
    assert facts["other_counts"]["official_code_flops"] == 1.344e9
    assert "one token too many" in facts["other_counts"]["why_they_differ"].replace("\n", " ")


def test_describe_adds_up_what_the_papers_number_may_hold() -> None:
    facts = command("describe", "AutoFormer-S", "--json").json
    counts = facts["other_counts"]
    ours = facts["flops"] - counts["layer_norm_flops"] - counts["relative_position_flops"]
    assert ours == counts["without_either_flops"]
    assert ours + counts["unfactorised_relative_position_flops"] == counts["official_products_flops"]
    assert round(counts["official_products_flops"] / 1e9, 3) == 5.161
    words = " ".join(command("describe", "AutoFormer-S").out.split())
    assert "4.84G" in words
    assert "probably 5.161G cut after one digit" in words
    for name in ("T", "B"):
        assert "probably leaves the N×N embedding" in " ".join(command("describe", f"AutoFormer-{name}").out.split())


def test_describe_tells_the_multiply_adds_of_each_form_apart_from_the_canonical_ones() -> None:
    facts = command("describe", "AutoFormer-T", "--json").json
    assert facts["executed_flops"]["bias"] == facts["flops"] < facts["executed_flops"]["fused"]
    assert "torch on a CPU" in command("describe", "AutoFormer-T").out


def test_describe_takes_the_classes_of_a_space_unless_others_are_given(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "embed_dims: [32]\ndepths: [2]\nnum_heads: [2]\nmlp_ratios: [2.0]\nimage_sizes: [32]\npatch_size: 8\n"
        "num_classes: 7\nnorm_eps: 1e-6\n"
    )
    facts = command("describe", tmp_path / "mine.yaml", "--json").json
    assert (facts["num_classes"], facts["norm_eps"]) == (7, 1e-6)
    none = command("describe", tmp_path / "mine.yaml", "--num-classes", "0", "--json").json
    assert none["num_classes"] == 0
    assert facts["largest"]["params"] - none["largest"]["params"] == 7 * (32 + 1)
    assert command("describe", "micro", "--json").json["num_classes"] == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("AutoFormer-T", "--space", "micro"), "is not in space 'micro'"),
        (("tiny", "--space", "small"), "--space has no effect"),
        ((".", "--num-classes", "3"), "--num-classes has no effect on the folder"),
        ((".", "--image-size", "32"), "--image-size has no effect on the folder"),
        ((".", "--space", "tiny"), "--space has no effect on the folder"),
    ],
)
def test_describe_refuses_words_that_contradict_or_have_no_effect(words: tuple[str, ...], message: str) -> None:
    assert message in command("describe", *words).error


@pytest.fixture
def small_network(tmp_path: Path) -> Path:
    space = SearchSpace.preset("micro", image_size=16)
    preprocessing = Preprocessing(image_size=16, in_chans=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    subnet = Subnet.from_space(space, space.smallest)
    save_subnet(subnet, tmp_path / "net", preprocessing=preprocessing, classes="abcdefghij", record={})
    return tmp_path / "net"


def test_describe_counts_a_folder_without_classes(small_network: Path, tmp_path: Path) -> None:
    before = command("describe", small_network, "--json").json
    subnet, preprocessing, _ = load_subnet(small_network)
    subnet.reset_classifier(0)
    save_subnet(subnet, tmp_path / "bare", preprocessing=preprocessing, classes=(), record={})
    after = command("describe", tmp_path / "bare", "--json").json
    assert after["num_classes"] == 0
    assert before["params"] - after["params"] == 10 * (48 + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "num_heads must be a list"),
        ({"mlp_ratio": "111"}, "mlp_ratio must be a list"),
        ({"img_size": [16, 24]}, "image_sizes"),
        ({"head_dim": "wide"}, "head_dim"),
        ({"searched_size": 32}, "searched_size 32 contradicts img_size 16"),
        ({"relative_position": "no"}, "relative_position must be true or false"),
        ({"embed_dim": 64}, "architecture.json"),
    ],
)
def test_describe_names_what_is_wrong_with_an_edited_network(
    small_network: Path, changes: dict[str, object], message: str
) -> None:
    path = small_network / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_args": {**config["model_args"], **changes}}))
    error = command("describe", small_network).error
    assert message in error
    assert str(small_network) in error


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"model_args": [1]}),
        ("architecture.json", {"embed_dim": 48}),
        ("supernet.json", {"space": {}, "data": {}}),
        ("supernet.json", {"space": SearchSpace.preset("micro").to_dict(), "data": "x"}),
        ("manifest.json", {"artefacts": [1], "params": 1, "flops": 1}),
    ],
)
def test_describe_names_the_damaged_file_of_a_folder(small_network: Path, tmp_path: Path, name: str, content: object) -> None:
    folder = small_network if name in ("config.json", "architecture.json") else tmp_path / "other"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    assert name in command("describe", folder).error


def test_a_space_comes_from_a_yaml_file_head_width_image_and_patch_size_included(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "embed_dims: [32, 48]\ndepths: [2, 3]\nnum_heads: [2]\nmlp_ratios: [2.0]\n"
        "head_dim: 24\nimage_sizes: [40]\npatch_size: 10\n"
    )
    facts = command("describe", tmp_path / "mine.yaml", "--num-classes", "5", "--json").json
    assert (facts["networks"], facts["head_dim"], facts["num_classes"]) == (4, 24, 5)
    (tmp_path / "bad.yaml").write_text("embed_dims: [32]\nwidths: [3]\n")
    assert "widths" in command("describe", tmp_path / "bad.yaml").error
    assert "bad2.yaml" in command("describe", tmp_path / "bad2.yaml").error


def test_a_run_searches_the_space_of_a_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "embed_dims: [16]\ndepths: [1]\nnum_heads: [1]\nmlp_ratios: [1.0]\nimage_sizes: [8]\npatch_size: 4\n"
    )
    answer = command(
        "train", QUICKSTART, "--set", f"space.preset={tmp_path / 'mine.yaml'}", "--set", "train.epochs=1",
        "--set", "space.head_dim=8", "--out", tmp_path / "s", "--quiet",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    facts = command("describe", tmp_path / "s", "--json").json
    assert (facts["embed_dims"], facts["head_dim"], facts["num_classes"], facts["in_chans"]) == ([16], 8, 10, 1)


def official_file(path: Path) -> None:
    """The small official supernet of tests/data in the layout of the released files."""
    numbers = np.load(Path(__file__).parent / "data" / "official_small.npz")
    state = {name[6:]: torch.from_numpy(numbers[name].astype(np.float32)) for name in numbers.files if name.startswith("state/")}
    torch.save({"model": state, "epoch": 499, "args": argparse.Namespace(lr=1e-3)}, path)


def test_an_official_checkpoint_becomes_a_supernet_that_networks_are_cut_out_of(tmp_path: Path) -> None:
    official_file(tmp_path / "supernet.pth")
    (tmp_path / "space.yaml").write_text(
        "embed_dims: [64, 96, 128]\ndepths: [2, 3]\nnum_heads: [1, 2]\nmlp_ratios: [2.0, 3.0]\nimage_sizes: [32]\npatch_size: 8\n"
    )
    answer = command("import-official", tmp_path / "supernet.pth", "--space", tmp_path / "space.yaml", "--out", tmp_path / "s")
    assert answer.code == 0, answer.err
    assert command("extract", "--supernet", tmp_path / "s", "--architecture", "middle", "--out", tmp_path / "net").code == 0
    assert command("describe", tmp_path / "net", "--json").json["num_classes"] == 7
    assert "give --data" in command("evaluate", tmp_path / "net").error
    answer = command("import-official", tmp_path / "supernet.pth", "--space", "tiny", "--out", tmp_path / "t")
    assert "does not fit space 'tiny'" in answer.error
    assert not (tmp_path / "t").exists()


def test_doctor_says_what_works_and_what_to_install() -> None:
    findings = {finding["what"]: finding for finding in command("doctor", "--json").json}
    assert findings["ONNX Runtime on the CPU"]["works"]
    assert findings["TensorRT"]["works"] or findings["TensorRT"]["advice"]
    assert command("doctor").code == 0


# --- help --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    answer = command(name, "--help")
    assert answer.code == 0
    if name in ("profile", "report"):
        sub = {"profile": "run", "report": "build"}[name]
        answer = command(name, sub, "--help")
    assert name == "doctor" or "xample" in answer.out


def test_help_imports_nothing_heavy() -> None:
    """Import time is what makes help slow; a list of modules is exact where a clock is not."""
    heavy = ["torch", "timm", "optuna", "sklearn", "numpy", "onnxruntime", "onnx", "plotly", "pydantic", "fvcore"]
    code = (
        "import sys; sys.argv = ['autoformer', '--help']\n"
        "import autoformer.cli.app as a\n"
        "try: a.main()\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.slow
@pytest.mark.serial
def test_help_answers_in_well_under_half_a_second() -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "autoformer.cli", "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.4


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
    "words", [("run", "--nope"), ("run",), ("predict", "x", "y", "--top", "0"), ("profile", "run", "x", "--batch", "0")]
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
    assert "2.5ms" in answer.error


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
    monkeypatch.setitem(sys.modules, "autoformer.profiling.doctor", None)
    monkeypatch.setattr("autoformer.cli.doctor.doctor", None)

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

    monkeypatch.setattr("autoformer.cli.chain.load_parts", interrupted)
    answer = command("run", QUICKSTART, "--out", tmp_path / "r")
    assert answer.code == 130
    assert "run the same command again" in answer.error


def test_a_grey_image_goes_into_a_colour_network(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "super"
    settings = ("train.epochs=1", "train.batch_size=8", "data.image_size=16")
    words = [word for setting in settings for word in ("--set", setting)]
    assert command("train", QUICKSTART, "--data", image_folder, "--out", out, "--quiet", *words).code == 0
    assert command("extract", "--supernet", out, "--architecture", "smallest", "--out", tmp_path / "net").code == 0
    Image.new("L", (40, 30), 128).save(tmp_path / "grey.png")
    assert command("predict", tmp_path / "net", tmp_path / "grey.png", "--json").json[0]["classes"]
