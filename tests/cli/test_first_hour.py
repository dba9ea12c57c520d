"""The first hour with one's own photographs: checked, searched inside a latency, judged, compared, bundled and verified."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from autoformer.files import read_json
from tests.support.commands import command
from tests.support.short_runs import SHORT

CLASSES = ("Bee", "ant", "Cat", "dog", "Eel", "fox", "Gnu", "hen")
SHORTER = (
    *SHORT, "profile.networks=4", "profile.rounds=1", "profile.finalists=2", "train.epochs=2", "train.batch_size=16",
    "finetune.batch_size=16", "export.max_disagreement=0.5", "export.max_class_loss=1",
)  # fmt: skip


def photographs(root: Path, each: int, seed: int = 0) -> Path:
    """Colour photographs of 300 to 1600 px, few of them large, a pattern and a hue for each class."""
    rng = np.random.default_rng(seed)
    for number, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for index in range(each):
            small = rng.integers(0, 90, (20, 20, 3))
            rows, columns = np.mgrid[0:20, 0:20]
            small[((rows * (number % 4 + 1) + columns + index) // 4) % 2 == 0, number % 3] += 150
            sides = rng.integers(300, 500 if index % 8 else 1600, 2)
            picture = Image.fromarray(small.astype(np.uint8)).resize((int(sides[0]), int(sides[1])), Image.Resampling.BILINEAR)
            picture.save(root / name / f"IMG_{index:04d}.jpg", quality=80)
    return root


@pytest.mark.slow
def test_a_folder_of_photographs_becomes_a_verified_bundle_by_the_commands_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("autoformer.cli.chain.choosing_recipe.pretrained_start", lambda: None)
    photographs(Path("photos"), 45)
    photographs(Path("new"), 3, seed=1)
    for index in range(10):
        Path(f"photos/Cat/IMG_9{index:03d}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Path("photos/Zebra").mkdir()

    checked = command("data", "check", "photos")
    assert checked.code == 0, checked.err
    for said in (".heic 10", "JPEG", "Zebra", "shorter side", "images-64px", "autoformer run --data photos --max-latency 60%"):
        assert said in checked.out, said

    short = [word for setting in SHORTER for word in ("--set", setting)]
    done = command("run", "--data", "photos", "--max-latency", "60%", "--out", "runs/photos", *short)
    assert done.code == 0, done.err
    assert "recipe images-64px: " in done.err
    assert "limits: max_latency=60%, not the recipe's max_flops" in done.err
    ship = read_json(Path("runs/photos/report.json"))["ship"]  # no file where the machine was too busy to time it
    assert (ship["sentence"] if ship["file"] is None else f"ship this one: runs/photos/{ship['file']}") in done.out
    assert {"onnx", "fp32"} <= set(" ".join(one["name"] for one in ship["files"]).lower().split())
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert len(lines) == len(set(lines)) <= 100

    named = command("predict", "runs/photos", "new", "--out", "named.csv")
    assert named.code == 0, named.err
    assert len(Path("named.csv").read_text().splitlines()) == 1 + 3 * len(CLASSES)
    judged = command("evaluate", "runs/photos", "--data", "new", "--part", "all", "--json")
    assert judged.code == 0, judged.err

    save_file(timm.create_model("mobilenetv3_small_100", num_classes=len(CLASSES)).state_dict(), "mobile.safetensors")
    words = ("runs/photos/export", "timm:mobilenetv3_small_100@mobile.safetensors", "--data", "photos", "--seconds", "0.1")
    compared = command("compare", *words, "--classes", "text", "--json")
    assert compared.code == 0, compared.err
    assert "mobilenetv3_small_100" in compared.out

    bundled = command("bundle", "runs/photos", "--out", "shipped", "--images", "16")
    assert bundled.code == 0, bundled.err
    verified = subprocess.run([sys.executable, "shipped/board.pyz", "verify"], capture_output=True, text=True)
    assert verified.returncode == 0, verified.stdout + verified.stderr
