"""One file that runs on a board: the modules that work without torch, packed as a Python program (a zipapp).

The host runs the same modules, so nothing is written twice. What belongs into the file is found by following the imports from
its entry. A module that imports more than the standard library at its top would fail on the board, so it is refused here.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from autoformer.errors import ExportError

PACKAGE = "autoformer"
MOMENT = (1980, 1, 1, 0, 0, 0)  # of every file in the program, so that equal sources give equal bytes
START = "from {module} import main\n\nraise SystemExit(main())\n"


def board_program(entry: str) -> bytes:
    """A program that runs `main()` of the module `entry`, as the bytes of a .pyz file.

    Raises `ExportError` when a module it needs imports anything but the standard library or this package at its top.
    """
    packed = io.BytesIO()
    packed.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        files = {"__main__.py": START.format(module=entry), f"{PACKAGE}/__init__.py": source_of(PACKAGE)}
        modules = modules_of(entry)
        files |= {f"{room.replace('.', '/')}/__init__.py": "" for room in rooms_of(modules)}
        files |= {f"{name.replace('.', '/')}.py": source_of(name) for name in modules}
        for name, text in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, MOMENT), text, compress_type=zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def modules_of(entry: str) -> list[str]:
    """The modules of this package that `entry` loads, itself first: at its top, inside functions, and those of these."""
    found: dict[str, None] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        found[name] = None
        for imported, is_top in imports_of(name):
            if imported.split(".")[0] == PACKAGE:
                if imported != PACKAGE:
                    waiting.append(imported)
            elif is_top and imported.split(".")[0] not in sys.stdlib_module_names:
                raise ExportError(f"{name} imports {imported!r} when it is loaded, so it cannot run on a board")
    return list(found)


def rooms_of(modules: list[str]) -> set[str]:
    """The packages that hold these modules, below the outermost."""
    return {module[:at] for module in modules for at, sign in enumerate(module) if sign == "." and module[:at] != PACKAGE}


def imports_of(name: str) -> Iterator[tuple[str, bool]]:
    """What a module imports, and whether when it is loaded; imports for type checkers alone are left out."""
    tree = ast.parse(source_of(name))
    for_checkers = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    top = set(tree.body)
    for node in ast.walk(tree):
        if node in for_checkers:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] if is_room(node.module) else [node.module]
            yield from ((name, node in top) for name in names)


def is_room(name: str) -> bool:
    """Whether this is a package below the outermost: a name that is imported from it is a module."""
    if not name.startswith(f"{PACKAGE}."):
        return False
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.submodule_search_locations is not None


def source_of(name: str) -> str:
    """The text of a module."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ExportError(f"module {name} is not installed; install the package anew")
    return Path(spec.origin).read_text(encoding="utf-8")
