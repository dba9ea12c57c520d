"""What ships, under which names, and that a checkout shows the same names."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.source_tree import FOLDERS, ROOT, files


def test_the_links_show_the_checkout_the_names_an_installed_package_has() -> None:
    for name in ("export", "profiling", "cli", "recipes"):
        link = ROOT / "autoformer" / name
        assert link.is_symlink()
        assert link.resolve() == (ROOT / name).resolve()


def test_the_package_list_maps_every_folder_under_its_import_name() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {name: folder for folder, name in FOLDERS.items()}


def test_profiling_leaves_the_standard_librarys_package_of_that_name_in_view() -> None:
    assert not (ROOT / "profiling" / "__init__.py").exists()


def test_no_module_is_named_like_a_library_it_could_shadow() -> None:
    names = {part for module in files() for part in module.split(".")[1:]}
    assert not names & {"onnx", "tensorrt", "torch", "timm", "optuna", "plotly", "numpy", "onnxruntime"}


def test_the_version_is_one() -> None:
    from autoformer import __version__

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


@pytest.mark.slow
def test_a_wheel_holds_every_module_the_reports_templates_and_the_recipes_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    inits = {path for path in files().values() if path.stem == "__init__"}
    expected = {f"{module.replace('.', '/')}{'/__init__' if path in inits else ''}.py" for module, path in files().items()}
    templates = {f"autoformer/profiling/reports/{path.name}" for path in (ROOT / "profiling" / "reports").glob("*.j2")}
    recipes = {f"autoformer/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")}
    assert templates
    assert recipes
    assert held == expected | templates | recipes | {"autoformer/py.typed"}
