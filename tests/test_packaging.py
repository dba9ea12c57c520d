"""Rules about structure: who imports whom, what ships, what the folders are called."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "autoformer": "autoformer",
    "export": "autoformer.export",
    "profiling": "autoformer.profiling",
    "cli": "autoformer.cli",
}
MAY_IMPORT = {
    "autoformer": (),
    "export": ("autoformer.export",),
    "profiling": ("autoformer.export", "autoformer.profiling"),
    "cli": ("autoformer.export", "autoformer.profiling", "autoformer.cli"),
}
OUTER = ("autoformer.export", "autoformer.profiling", "autoformer.cli")


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).glob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_imports_only_itself_and_what_stands_left_of_it(folder: str) -> None:
    assert modules(folder)
    for path in modules(folder):
        wrong = [name for name in imports(path) if name.startswith(OUTER) and not name.startswith(MAY_IMPORT[folder])]
        assert not wrong, f"{path.name} imports {wrong}"


def test_architecture_space_and_cost_import_no_torch() -> None:
    code = "import sys, autoformer.architecture, autoformer.space, autoformer.cost; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_links_show_the_checkout_the_names_an_installed_package_has() -> None:
    for name in ("export", "profiling", "cli"):
        link = ROOT / "autoformer" / name
        assert link.is_symlink()
        assert link.resolve() == (ROOT / name).resolve()


def test_the_package_list_maps_every_folder_under_its_import_name() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {name: folder for folder, name in FOLDERS.items()}
    assert sorted(settings["packages"]) == sorted(FOLDERS.values())
    for folder in FOLDERS:
        inside = [path for path in (ROOT / folder).iterdir() if path.is_dir() and not path.is_symlink()]
        assert [path.name for path in inside if path.name != "__pycache__"] == [], "packages are flat"


def test_profiling_leaves_the_standard_librarys_package_of_that_name_in_view() -> None:
    assert not (ROOT / "profiling" / "__init__.py").exists()


def test_no_module_is_named_like_a_library_it_could_shadow() -> None:
    names = {path.stem for folder in FOLDERS for path in modules(folder)} - {"__init__", "__main__"}
    assert not names & {"onnx", "tensorrt", "torch", "timm", "optuna", "profile", "statistics_", "typing", "json", "plotly"}


def test_the_version_is_one() -> None:
    from autoformer import __version__

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


@pytest.mark.slow
def test_a_wheel_holds_the_four_packages_and_the_reports_templates(tmp_path: Path) -> None:
    import zipfile

    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for expected in (
        "autoformer/train.py",
        "autoformer/export/engine.py",
        "autoformer/profiling/report.html.j2",
        "autoformer/cli/app.py",
    ):
        assert expected in names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
