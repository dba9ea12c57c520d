"""The Dockerfile, as far as it can be checked without a builder: its base, what it copies, and the command it runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from autoformer.cli.chain.shipped import shipped
from tests.support.commands import command
from tests.support.source_tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its words."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def copied() -> list[tuple[str, str]]:
    """Sources with their destinations."""
    found = []
    for words in (rest.split() for word, rest in instructions() if word == "COPY"):
        found += [(source, words[-1]) for source in words[:-1]]
    return found


def is_sent(path: str) -> bool:
    """Whether a path at the top reaches the builder: the last rule of .dockerignore that fits decides."""
    sent = True
    for rule in (ROOT / ".dockerignore").read_text().split():
        if fnmatch(path, rule.removeprefix("!")):
            sent = rule.startswith("!")
    return sent


def test_its_base_is_a_python_that_the_project_takes() -> None:
    (base,) = [rest for word, rest in instructions() if word == "FROM"]
    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim", base)
    least = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["project"]["requires-python"])
    assert version
    assert least
    assert tuple(map(int, version.groups())) >= tuple(map(int, least.groups()))


def test_it_copies_what_exists_and_reaches_the_builder_to_where_the_build_looks_for_it() -> None:
    assert copied()
    for source, destination in copied():
        assert (ROOT / source).exists(), source
        assert is_sent(source), source
        assert destination.removeprefix("./") in ("", source), "a folder is copied by its content"
    assert not is_sent(".git")
    assert not is_sent(".venv")


def test_it_copies_every_folder_and_file_that_a_build_needs() -> None:
    sources = {source for source, _ in copied()}
    links = {path.name for path in (ROOT / "autoformer").iterdir() if path.is_symlink()}
    assert sources >= {folder.partition("/")[0] for folder in PROJECT["tool"]["setuptools"]["package-dir"].values()} | links
    assert sources >= {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}


def test_torch_comes_without_cuda_before_the_rest_is_installed() -> None:
    first, last = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    assert "--index-url https://download.pytorch.org/whl/cpu torch torchvision" in first
    assert last.endswith("pip install --no-cache-dir .")


def test_without_words_it_runs_the_quickstart_as_its_own_user() -> None:
    by_name = dict(instructions())
    assert json.loads(by_name["ENTRYPOINT"]) == ["autoformer"]
    assert "autoformer" in PROJECT["project"]["scripts"]
    words = json.loads(by_name["CMD"])
    assert words[:2] == ["run", "quickstart"]
    assert words[1] in shipped()
    assert by_name["USER"] != "root"
    answer = command(*words, "--help")
    assert answer.code == 0
    assert all(word in answer.out for word in words if word.startswith("--"))


@pytest.mark.slow
def test_what_it_copies_builds_a_wheel_with_the_recipes(tmp_path: Path) -> None:
    for source, _ in copied():
        place = tmp_path / "src" / source
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / source, place)
    call = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(tmp_path / "src")]
    subprocess.run(call, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "autoformer/recipes/quickstart.yaml" in zipfile.ZipFile(wheel).namelist()
