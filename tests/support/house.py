"""The plan of the house as data, and what breaks it: each rule is a function from a tree of source files to a list of lines.

`tests/house` says that this tree breaks none of them, and that each is broken by a violation planted in a small tree.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.support.source_tree import FOLDERS, ROOT, files, import_graph, imported_modules, imports

# A box is a room, or a file at a folder's door. Each imports only boxes of its folder that stand above it, and anything of the
# folders to the left. `docs/architecture.md` draws this table.
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "autoformer": (
        (
            "__init__",
            "conditions",
            "errors",
            "escaping",
            "file_kinds",
            "progress",
            "settings",
            "temporary",
            "versions",
        ),
        ("records",),
        ("architecture", "files", "metric"),
        ("choices", "data", "tensors"),
        ("space",),
        ("cost",),
        ("drawing", "networks", "parsing"),
        ("evaluate", "pretrained"),
        ("search", "training"),
    ),
    "autoformer.export": (
        ("__init__", "class_losses", "expected", "judging", "networks", "parity", "program"),
        ("manifest",),
        ("graphs",),
        ("bundle", "engines"),
        ("config", "predictor"),
        ("artefacts",),
    ),
    "autoformer.profiling": (("measuring",), ("backends",), ("insides", "tables"), ("kits", "profiles", "race"), ("reports",)),
    "autoformer.cli": (
        ("__init__", "board", "class_order", "device", "facts", "flags", "help", "options", "progress_display"),
        ("console",),
        ("answer", "chain", "judged_images", "networks", "words"),
        ("known_files", "meant"),
        ("commands", "profile_commands", "recipe_commands"),
        ("app",),
        ("__main__",),
    ),
}
ORDER = tuple(FLOORS)  # each imports itself and what stands before it
MOST_ARROWS = {"autoformer": 80, "autoformer.profiling": 20}
WITHOUT_TORCH = tuple(
    f"autoformer.{name}"
    for name in [
        "architecture",
        "space",
        "cost",
        "choices",
        "conditions",
        "drawing",
        "metric",
        "parsing",
        "files",
        "records",
        "temporary",
        "errors",
    ]
)
NUMBERS_ONLY = tuple(  # they hold or compare numbers, and import neither torch nor a network
    f"autoformer.{room}.{name}"
    for room, names in {
        "search": (
            "answer", "audit", "baselines", "candidate", "config", "database", "evaluations", "methods", "pareto", "record",
            "result", "rungs", "space_table",
        ),
        "export": ("class_losses", "manifest", "parity"),
        "profiling.tables": (
            "correction", "costs", "design", "errors", "formulas", "limit", "loop", "speed_factor", "table",
        ),
        "profiling.reports": ("content", "joint", "race", "run_folder", "search"),
    }.items()
    for name in names
)  # fmt: skip
ON_BOARDS = ("autoformer.profiling.measuring", "autoformer.export.engines", "autoformer.cli.board")  # standard library at the top
MOST_ARGUMENTS = 8
MOST_EXCEPTIONS = 10
MANY_ARGUMENTS: dict[str, str] = {}  # module.function: why its arguments make no value
MOST_LINES = 450
MOST_FILES = 20


def box_of(module: str) -> tuple[str, str]:
    """The folder of a module (by its import name) and its box there; the package as a program is a door of the command line."""
    if module == "autoformer.__main__":
        return "autoformer.cli", "__main__"
    package = max((name for name in FLOORS if module == name or module.startswith(f"{name}.")), key=len)
    rest = module.removeprefix(package).strip(".")
    return package, rest.split(".")[0] if rest else "__init__"


def arrows(graph: dict[str, set[str]]) -> dict[str, set[tuple[str, str]]]:
    """By folder, the pairs of different boxes of which one imports the other."""
    found: dict[str, set[tuple[str, str]]] = {name: set() for name in FLOORS}
    for module, targets in graph.items():
        for target in targets:
            (package, box), (other, target_box) = box_of(module), box_of(target)
            if package == other and box != target_box and target_box != "__init__":
                found[package].add((box, target_box))
    return found


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Each import that leads back to where it began, as the shortest way round."""
    found: dict[frozenset[str], str] = {}
    for start in graph:
        ways = [[start]]
        seen = set()
        while ways:
            way = ways.pop(0)
            for target in sorted(graph.get(way[-1], ())):
                if target == start:
                    found.setdefault(frozenset(way), " -> ".join([*way, start]))
                    ways = []
                    break
                if target not in seen:
                    seen.add(target)
                    ways.append([*way, target])
    return sorted(found.values())


def upward_imports(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a box that does not stand above, of a folder to the right, or of a box that the plan does not know."""
    floor = {(name, box): level for name, floors in FLOORS.items() for level, boxes in enumerate(floors) for box in boxes}
    found = [f"{module} is on no floor" for module in graph if box_of(module) not in floor]
    for module, targets in graph.items():
        for target in targets:
            here, there = box_of(module), box_of(target)
            if ORDER.index(there[0]) > ORDER.index(here[0]) or (
                here[0] == there[0] and here != there and floor.get(there, 0) >= floor.get(here, 0) and there[1] != "__init__"
            ):
                found.append(f"{module} imports {target}")
    return sorted(found)


def beyond_the_standard_library(root: Path = ROOT) -> list[str]:
    """What modules that run on boards load from elsewhere than the standard library, themselves or through modules of ours."""
    ours, found = files(root), []
    for module in (name for name in ours if name.startswith(ON_BOARDS)):
        waiting, seen = [module], set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            top = ast.Module(list(_loaded(ast.parse(ours[name].read_text()).body)), [])
            waiting += imported_modules(top, ours)
            others = {other.split(".")[0] for other, _ in imports(top)} - sys.stdlib_module_names - {"autoformer"}
            found += [f"{name} imports {other}" for other in others]
    return sorted(set(found))


def _loaded(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The imports that run when a module is loaded: under `try` and `if` too, but not for type checkers or in functions."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _loaded(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            handlers = [inner for handler in getattr(node, "handlers", []) for inner in handler.body]
            yield from _loaded([*node.body, *handlers, *getattr(node, "orelse", []), *getattr(node, "finalbody", [])])


def maps_that_miss_a_file(root: Path = ROOT) -> list[str]:
    """Files that the map of their room does not name; commands apart, which are named like the verbs that they are."""
    found = []
    for path in files(root).values():
        room = path.parent
        if path.stem.startswith("__") or room == root / "profiling" or room == root / "cli" / "commands":
            continue
        said = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) if (room / "__init__.py").exists() else ""
        if f"`{path.stem}`" not in (said or ""):
            found.append(path.relative_to(root).as_posix())
    return sorted(found)


def named_like_the_standard_library(root: Path = ROOT) -> list[str]:
    """Modules and rooms whose own name is that of a standard module (the folder `profiling` apart, see architecture.md)."""
    names = {part for module in files(root) for part in module.split(".")[1:]} - {"profiling", "__main__"}
    return sorted(names & sys.stdlib_module_names)


def imports_between_tests(root: Path = ROOT) -> list[str]:
    """Test modules that import another test module, or one of no room for what tests share."""
    return sorted(
        f"{path.relative_to(root).as_posix()} imports {module}"
        for path in (root / "tests").rglob("*.py")
        for module, _ in imports(ast.parse(path.read_text()))
        if module.startswith("tests.") and not module.startswith("tests.support")
    )


def packages_not_as_on_disk(root: Path = ROOT) -> list[str]:
    """Packages that pyproject lists and nobody has, or that are there and would be missing from the wheel."""
    listed = set(tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    rooms = {module.rpartition(".")[0] for module, path in files(root).items() if path.stem != "__init__"} - {""}
    return sorted(listed ^ (rooms | set(FOLDERS.values())))


def functions_of_many_arguments(root: Path = ROOT) -> list[str]:
    """Functions with more than `MOST_ARGUMENTS` (self apart), as `module.name takes N`; typer's commands do not count."""
    found = []
    for module, path in files(root).items():
        tree = ast.parse(path.read_text())
        for scope, function in _functions(tree):
            given = function.args
            names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            count = len(names) - (names[:1] in (["self"], ["cls"])) + (given.vararg is not None) + (given.kwarg is not None)
            if count > MOST_ARGUMENTS and not _is_command(module, function, tree):
                found.append(f"{module}.{scope}{function.name} takes {count}")
    return sorted(found)


def _functions(tree: ast.AST, scope: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield scope, node
        inner = f"{scope}{node.name}." if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else scope
        yield from _functions(node, inner)


def _is_command(module: str, function: ast.FunctionDef | ast.AsyncFunctionDef, tree: ast.Module) -> bool:
    """Whether typer calls it: a public function at the top of a command's module that declares an option in its signature."""
    return (
        module.startswith(("autoformer.cli.commands.", "autoformer.cli.profile_commands."))
        and function in tree.body
        and not function.name.startswith("_")
        and any(node.attr == "Option" for node in ast.walk(function.args) if isinstance(node, ast.Attribute))
    ) or any("command" in ast.unparse(decorator) for decorator in function.decorator_list)


def long_files(root: Path = ROOT) -> list[str]:
    """Files of more than `MOST_LINES` lines, those of tests included."""
    paths = [*files(root).values(), *(root / "tests").rglob("*.py")]
    counted = {path: len(path.read_text().splitlines()) for path in paths}
    return sorted(
        f"{path.relative_to(root).as_posix()} has {lines} lines" for path, lines in counted.items() if lines > MOST_LINES
    )


def large_rooms(root: Path = ROOT) -> list[str]:
    """Folders of the product with more than `MOST_FILES` Python files."""
    counts = Counter(path.parent.relative_to(root).as_posix() for path in files(root).values())
    return sorted(f"{folder} has {count} files" for folder, count in counts.items() if count > MOST_FILES)


def plan(root: Path = ROOT) -> str:
    """The picture in `docs/architecture.md`, drawn from the imports: by folder its floors, each box with those it imports."""
    lines = []
    drawn = arrows(import_graph(root))
    for folder, package in FOLDERS.items():
        lines += [f"{folder}/  ({len(drawn[package])} arrows)"]
        for boxes in FLOORS[package]:
            for box in boxes:
                targets = sorted(target for source, target in drawn[package] if source == box)
                if box != "__init__":
                    room = f"{box}/" if (root / folder / box).is_dir() else box
                    lines.append(f"    {room:<18}{' '.join(targets) if targets else '·'}")
            lines.append("    " + "─" * 60)
        lines[-1] = ""
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    print(plan())
