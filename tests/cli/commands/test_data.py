"""`autoformer data check` as a person reads it: sizes, what would be trained, and what to type next."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from autoformer.data.decoding import TO_JPEG
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.errors import DataError
from tests.support.commands import command
from tests.support.small_images import draw_images


@pytest.fixture(autouse=True)
def _no_weights_are_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("autoformer.cli.chain.choosing_recipe.pretrained_start", lambda: None)


def test_sizes_recipe_and_the_next_command_are_shown_and_are_in_the_json(tmp_path: Path) -> None:
    draw_images(tmp_path / "my photos", ("cat", "dog"), each=30, size=400)
    answer = command("data", "check", tmp_path / "my photos", "--quiet", "--no-near")
    assert answer.code == 0, answer.err
    lines = [line for line in answer.out.splitlines() if line.startswith("384–511")]
    assert [line.count("█") for line in lines] == [40]
    for said in ("400 px", "64 px: recipe images-64px takes 64 px", "next", "data.image_size=128 keeps more"):
        assert said in answer.out
    values = command("data", "check", tmp_path / "my photos", "--quiet", "--no-near", "--json").json
    assert values["sizes"]["shorter_sides"] == [{"low": 384, "high": 512, "images": 60}]
    assert values["training_size"]["pixels"] == values["recipe"]["image_size"] == 64
    words, sharper = shlex.split(values["next"]), shlex.split(values["sharper"])
    assert sharper == [*words, "--set", "data.image_size=128"]
    assert f"  {values['next']}\n" in answer.out
    assert f"  {values['sharper']}\n" in answer.out
    assert words == ["autoformer", "run", "--data", str(tmp_path / "my photos"), "--max-latency", "60%"]


def test_what_settings_ask_for_is_kept_in_the_next_command(tmp_path: Path) -> None:
    draw_images(tmp_path, ("cat", "dog"), each=30, size=100)
    options = ("--set", "image_size=96", "--group-by", r"(\d+)\.png", "--json", "--quiet", "--no-near")
    values = command("data", "check", tmp_path, *options).json
    assert values["training_size"] == {"pixels": 96, "reason": "data.image_size=96 asks for it"}
    assert shlex.split(values["next"])[-4:] == ["--set", "data.image_size=96", "--set", r"data.group_by=(\d+)\.png"]
    assert "shrunk" not in [one["kind"] for one in values["findings"]]
    assert values["sharper"] is None


def test_what_is_found_is_said_with_few_examples_and_no_line_is_a_table_of_all(tmp_path: Path) -> None:
    draw_images(tmp_path, ("cat", "dog", "emu"), each=12)
    out = command("data", "check", tmp_path, "--quiet", "--no-near").out
    at = out.index("classes with fewer than 20 images")
    assert [line.strip(" │") for line in out[at:].splitlines()[:3]] == [
        "classes with fewer than 20 images to train on",
        "for example cat (6), dog (6), ...",
        "→ trained on as they are; their accuracy is uncertain",
    ]


def test_a_misspelt_folder_is_one_line(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", ("cat", "dog"), each=12)
    answer = command("data", "check", tmp_path / "photoz", "--quiet")
    assert answer.code == 1
    assert answer.out.strip().splitlines() == [
        f"not usable: data source '{tmp_path / 'photoz'}' is no folder or .tar file that exists; "
        f"did you mean {tmp_path / 'photos'}?"
    ]


def test_images_that_cannot_be_trained_on_get_no_next_command(tmp_path: Path) -> None:
    draw_images(tmp_path, ("cat", "dog"), each=12)
    (tmp_path / "cat" / "000.png").write_bytes(b"no image")
    answer = command("data", "check", tmp_path, "--quiet", "--json")
    assert (answer.code, answer.json["recipe"], answer.json["next"]) == (1, None, None)
    out = command("data", "check", tmp_path, "--quiet").out
    assert "not usable: 1 cannot be read as images (.png 1); looked at in" in out
    assert f"next, without what cannot be read:\n  autoformer data check {tmp_path} --set data.unreadable=skip" in out
    (tmp_path / "dog" / "000.png").unlink()
    for number in range(1, 12):
        (tmp_path / "cat" / f"{number:03d}.png").write_bytes(b"no image")
    assert "next" not in command("data", "check", tmp_path, "--quiet").out  # nothing of a class can be read


def test_the_command_that_makes_jpegs_of_photographs_finds_every_case_and_every_folder(tmp_path: Path) -> None:
    for name in ("IMG_1.HEIC", "cat/IMG_2.heic", "cat/deep er/it's.HeIf", "dog/IMG_4.HIF", "dog/5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mogrify").write_text('#!/bin/sh\nshift 2\nfor file; do : > "${file%.*}.made"; done\n')
    (tmp_path / "bin" / "mogrify").chmod(0o755)
    asked = TO_JPEG.partition("lie: ")[2]
    subprocess.run(["sh", "-c", asked], cwd=tmp_path, env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}, check=True)
    made = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.made"))
    assert made == ["IMG_1.made", "cat/IMG_2.made", "cat/deep er/it's.made", "dog/IMG_4.made"]


def test_links_that_lead_nowhere_are_counted_and_hide_nothing(tmp_path: Path) -> None:
    draw_images(tmp_path, ("cat", "dog"), each=12)
    for number in range(2):
        (tmp_path / "cat" / f"lost {number}.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "bird").symlink_to(tmp_path / "nowhere")
    answer = command("data", "check", tmp_path, "--quiet", "--json")
    found = {one["kind"]: one for one in answer.json["findings"]}
    assert (answer.code, answer.json["classes"], "sizes" in answer.json) == (1, ["cat", "dog"], True)
    assert found["unreadable"]["count"] == 2
    assert found["lost"]["examples"] == ["bird"]
    assert all(found[kind]["consequence"].startswith("training is refused; repair") for kind in ("unreadable", "lost"))
    assert command("data", "check", tmp_path, "--quiet", "--set", "unreadable=skip").code == 0
    with pytest.raises(DataError, match="bird is a link that leads nowhere; repair or remove it"):
        load_parts(DataConfig(source=str(tmp_path)))


@pytest.mark.parametrize(
    ("counts", "row"), [((12,) * 12, "... 7 more, as large in train"), ((12,) * 11 + (20,), "... 7 larger, or as large in train")]
)
def test_classes_that_are_not_shown_are_called_larger_where_they_are(tmp_path: Path, counts: tuple[int, ...], row: str) -> None:
    for number, count in enumerate(counts):
        draw_images(tmp_path, (f"class {number:02d}",), each=count)
    out = command("data", "check", tmp_path, "--quiet", "--no-near").out
    assert row in out


def test_the_most_common_size_is_left_out_where_none_is_common(tmp_path: Path) -> None:
    for number in range(24):
        path = tmp_path / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40 + number, 50), (number, 0, 9)).save(path)
    assert "most common" not in command("data", "check", tmp_path, "--quiet").out
    Image.new("RGB", (40, 50), (99, 0, 9)).save(tmp_path / "cat" / "again.png")
    assert "most common  40 × 50 (2)" in command("data", "check", tmp_path, "--quiet").out


def test_files_that_cannot_be_read_are_counted_by_ending_with_the_remedy_and_empty_classes_are_named(tmp_path: Path) -> None:
    draw_images(tmp_path, ("cat", "dog"), each=12)
    for number in range(3):
        (tmp_path / "cat" / f"{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
        (tmp_path / "cat" / f"{number}.nef").touch()
    (tmp_path / "dog" / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (tmp_path / "dog" / "cut.png").write_bytes(b"\x89PNG")
    for number in range(12):
        (tmp_path / f"empty {number:02d}").mkdir()
    found = {
        (one["kind"], one["text"]): one
        for one in command("data", "check", tmp_path, "--quiet", "--json", "--set", "unreadable=skip").json["findings"]
    }
    remedies = {
        ("formats", "images of formats that are not read (.heic 3)"): "left out; make JPEGs of them, with ImageMagick",
        ("formats", "images of formats that are not read (.nef 3)"): "develop them to JPEG or TIFF",
        (
            "heic",
            "HEIC photographs under other endings, which cannot be read (.jpg 1)",
        ): "give them the ending .heic, then make JPEGs",
        ("unreadable", "cannot be read as images (.png 1)"): "left out and named in the record of the run",
    }
    for key, remedy in remedies.items():
        assert remedy in found[key]["consequence"], found.keys()
    (empty,) = [one for (kind, _), one in found.items() if kind == "empty"]
    assert empty["examples"] == [f"empty {number:02d}" for number in range(12)]


@pytest.mark.parametrize(
    ("classes", "text", "natural"),
    [(("1", "2", "10"), "1, 10, 2", "1, 2, 10"), (("ant", "Bee", "cat"), "Bee, ant, cat", "ant, Bee, cat")],
)
def test_an_order_of_classes_that_depends_on_the_sorting_is_said(
    tmp_path: Path, classes: tuple[str, ...], text: str, natural: str
) -> None:
    draw_images(tmp_path, classes, each=6)
    findings = command("data", "check", tmp_path, "--quiet", "--json").json["findings"]
    (found,) = [one for one in findings if one["kind"] == "order"]
    assert found["count"] == 2
    assert f"as text {text}, naturally (timm's way) {natural}" in found["text"]
    assert "class_map.txt" in found["consequence"]


def test_an_order_that_every_program_takes_is_not_worth_a_word(tmp_path: Path) -> None:
    draw_images(tmp_path, ("01", "02", "10"), each=6)
    findings = command("data", "check", tmp_path, "--quiet", "--json").json["findings"]
    assert "order" not in [one["kind"] for one in findings]
