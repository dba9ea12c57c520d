"""What the README tells people to type works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.support.commands import command
from tests.support.real_tensorrt import NEED
from tests.support.short_runs import SHORT
from tests.support.small_images import draw_images

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SHORTER = {
    "run": [
        *SHORT,
        "profile.networks=4",
        "export.max_disagreement=0.5",
        "data.image_size=16",
        "train.epochs=2",
        "train.batch_size=16",
        "finetune.batch_size=16",
    ],
    "train": list(SHORT),
    "search": ["population=4", "generations=2", "parents=2", "mutated=2", "crossed=2"],
    "race": ["finetune.epochs=2", "profile.seconds=0.1", "race.rivals=[]"],
    "finetune": ["epochs=2"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def official_supernet(path: Path, width: int = 256, depth: int = 14, classes: int = 1000) -> None:
    """A file with the names and shapes of the released supernet-tiny.pth and random numbers."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, 197, width), "norm.weight": (width,), "norm.bias": (width,),
        "patch_embed_super.proj.weight": (width, 3, 16, 16), "patch_embed_super.proj.bias": (width,),
        "head.weight": (classes, width), "head.bias": (classes,),
    }  # fmt: skip
    for block in range(depth):
        layers: dict[str, tuple[int, ...]] = {
            "attn.qkv": (3 * width, width), "attn.proj": (width, width), "fc1": (4 * width, width), "fc2": (width, 4 * width),
            "attn_layer_norm": (width,), "ffn_layer_norm": (width,),
        }  # fmt: skip
        for layer, shape in layers.items():
            shapes |= {f"blocks.{block}.{layer}.weight": shape, f"blocks.{block}.{layer}.bias": shape[:1]}
        for kind in "kv":
            for axis in "vh":
                shapes[f"blocks.{block}.attn.rel_pos_embed_{kind}.embeddings_table_{axis}"] = (30, 64)
    torch.save({"model": {name: 0.02 * torch.randn(shape) for name, shape in shapes.items()}, "epoch": 499}, path)


def test_the_readme_shows_the_two_commands_first_and_the_makefile_has_them() -> None:
    shown = [words for words in commands() if words[0] == "make"]
    assert [words[1] for words in shown] == ["quickstart", "test"]
    for _, target in shown:
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.slow
def test_every_command_of_the_readme_runs_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    draw_images(tmp_path / "photos", each=20, size=24)
    draw_images(tmp_path / "labelled_photos", each=4, size=30)
    (tmp_path / "new_photos").mkdir()
    for path in (tmp_path / "labelled_photos").rglob("*.png"):
        shutil.copy(path, tmp_path / "new_photos" / f"{path.parent.name}-{path.name}")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    official_supernet(tmp_path / "supernet-tiny.pth")
    for program, *words in commands():
        if program == "make" or ("tensorrt-rtx" in words and find_spec("tensorrt_rtx") is None and NEED not in os.environ):
            continue
        assert program == "autoformer"
        extra = [word for setting in SHORTER.get(words[0], ()) for word in ("--set", setting)]
        if words[0] in ("search", "compare") or words[:2] == ["profile", "run"]:
            extra += ["--seconds", "0.3"]
        if words[:2] == ["profile", "table"]:
            extra = ["--networks", "4"]
        if words[0] == "export":
            extra = ["--max-disagreement", "0.5"]
        answer = command(*words, *extra)
        if words[0] == "audit" and "not searchable" in answer.out:  # of a training of two epochs
            continue
        if words[0] == "search" and "latency over budget" in answer.out:  # as measured, on a machine with other programs
            continue
        assert answer.code == 0, f"{' '.join(words)}: {answer.err}"


@pytest.mark.slow
def test_the_python_example_runs_and_ends_with_a_network_that_has_learned(tmp_path: Path) -> None:
    (example,) = blocks("python")
    assert len([line for line in example.split("\n\n", 1)[1].splitlines() if line.strip()]) <= 15
    short = example.replace("epochs=60", "epochs=15").replace("epochs=20", "epochs=4").replace("population=20", "population=6")
    check = (
        "\nfrom autoformer.evaluate import EvaluationSet, predict_with, predictions\nfrom autoformer.metric import score\n"
        "images = EvaluationSet.of(parts.search, parts.preprocessing)\n"
        "print(score(predictions(predict_with(network), images), images.labels).value)\n"
        "import timm\ntimm.create_model('local-dir:notebook/finetuned', pretrained=True)\n"
    )
    code = "import torch\ntorch.set_num_threads(1)\n" + short + check
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 0.5
