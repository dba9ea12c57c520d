"""The product's source files, under the names they are imported by, and what each imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "autoformer": "autoformer",
    "export": "autoformer.export",
    "profiling": "autoformer.profiling",
    "cli": "autoformer.cli",
}


@cache
def files(root: Path = ROOT) -> dict[str, Path]:
    """Module name to file, of all four folders and their rooms. The links inside `autoformer/` are not followed."""
    found: dict[str, Path] = {}
    for folder, package in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            if not any((root / folder / Path(*parts[:depth])).is_symlink() for depth in range(1, len(parts))):
                found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def file_of(module: str) -> Path | None:
    """The file of one of our modules; None for anything else."""
    return files().get(module)


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, wherever in the file it stands; the name is `*` where the module itself is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, "*") for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield from ((node.module or "", name.name) for name in node.names)


def imported_modules(tree: ast.AST, ours: dict[str, Path]) -> set[str]:
    """Those of our modules that a file imports: as a module, or a name from one."""
    found = {name for module, name_in in imports(tree) for name in (f"{module}.{name_in}", module) if name in ours}
    packages = {f"{module}.{name}" for module, name in imports(tree)} & ours.keys()
    return {name for name in found if name in packages or not any(inner.startswith(f"{name}.") for inner in packages)}


@cache
def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Module to the modules of ours that it imports, inside functions and for type checkers included."""
    ours = files(root)
    return {name: imported_modules(ast.parse(path.read_text()), ours) - {name} for name, path in ours.items()}
