"""`describe` and `doctor`, and spaces and networks that come from files."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoformer.data.preprocessing import Preprocessing
from autoformer.files import read_json
from autoformer.networks.folders import load_subnet, save_subnet
from autoformer.networks.subnet import Subnet
from autoformer.space import SearchSpace
from tests.support.commands import command
from tests.support.short_runs import QUICKSTART

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
        ({"img_size": [16, 24]}, "8×12 patches"),
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
    config = read_json(path)
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
    numbers = np.load(Path(__file__).parents[2] / "data" / "official_small.npz")
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


# --- spaces that ask for more ------------------------------------------------------------------------------------


def test_describe_tells_what_a_space_asks_for_and_leaves_out_what_it_does_not() -> None:
    facts = command("describe", "compact-96", "--json").json
    assert facts["smallest"]["flops"] < facts["middle"]["flops"] < facts["largest"]["flops"]
    assert (facts["mlp_kernels"], facts["pool_after"]) == ([3], [1, 2])
    assert (facts["stem"], facts["stem_dim"], facts["stem_depths"], facts["class_token"]) == ("conv", 32, [1], False)
    words = " ".join(command("describe", "compact-96").out.split())
    assert "pool_after" in words
    assert (
        not {"patch_sizes", "mlp_kernels", "pool_after", "stem", "class_token"}
        & command("describe", "micro", "--json").json.keys()
    )


def test_describe_tells_the_grid_of_every_block_of_an_architecture_that_halves_it(tmp_path: Path) -> None:
    space = replace(
        SearchSpace.preset("compact-96"), depths=(4, 5), patch_sizes=(8, 16), mlp_kernels=(0, 3), pool_after=(0, 2, 3)
    )
    (tmp_path / "space.yaml").write_text(json.dumps(space.to_dict()))
    network = {
        "embed_dim": 96, "num_heads": [2, 4, 2, 6], "mlp_ratio": [1, 2, 3, 1], "patch_size": 16, "stem_depth": 1,
        "mlp_kernel": [0, 3, 0, 3], "pool_after": 3,
    }  # fmt: skip
    facts = command("describe", json.dumps(network), "--space", tmp_path / "space.yaml", "--json").json
    assert (facts["patch_size"], facts["grids"]) == (16, [6, 6, 6, 3])
    words = " ".join(command("describe", json.dumps(network), "--space", tmp_path / "space.yaml").out.split())
    for part in ("patch 16 px", "stem depth 1", "MLP kernels 0,3,0,3", "grid halved after block 3"):
        assert part in words
    assert "grids" not in command("describe", "AutoFormer-T", "--json").json


@pytest.mark.parametrize("value", ["lacking", None, 8, "x", [], {}])
def test_a_report_that_was_edited_is_described_or_refused_in_one_line(finished_run: Path, tmp_path: Path, value: object) -> None:
    report, refused = read_json(finished_run / "report.json"), 0
    for key in report:
        edited = {name: held if name != key else value for name, held in report.items() if (name, value) != (key, "lacking")}
        (tmp_path / "report.json").write_text(json.dumps(edited))  # without its digest
        answer = command("describe", tmp_path)
        assert answer.code in (0, 2), answer.err
        if answer.code:
            refused += 1
            assert answer.err.startswith("error: ")
            assert answer.err.count("\n") == 1
    assert refused


def test_every_command_is_explained_by_a_whole_sentence_in_the_help_of_its_group() -> None:
    for group in ((), ("profile",), ("data",), ("report",), ("recipe",)):
        lines = command(*group, "--help").out.splitlines()
        assert not [line for line in lines if line.endswith("...") and "Usage" not in line]
