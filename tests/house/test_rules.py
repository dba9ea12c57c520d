"""The rules of the house hold, and each is broken by a violation that is planted in a small tree."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import house
from tests.support.source_tree import ROOT, files, import_graph


def plant(root: Path, **sources: str) -> Path:
    """A tree of the four folders with these files; `__` in a name stands for a slash."""
    for name, text in {"autoformer__errors": "", "export__parity": "", "cli__app": "", **sources}.items():
        path = root / f"{name.replace('__', '/').replace('INIT', '__init__')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for room in {path.parent for path in root.rglob("*.py")} - {root / "profiling"}:
        if "tests" not in room.parts and not (room / "__init__.py").exists():
            (room / "__init__.py").write_text(f'"""{" ".join(f"`{path.stem}`" for path in sorted(room.glob("*.py")))}"""')
    for folder in ("profiling", "tests"):
        (root / folder).mkdir(exist_ok=True)
    (root / "pyproject.toml").write_text(
        '[tool.setuptools]\npackages = ["autoformer", "autoformer.export", "autoformer.profiling", "autoformer.cli"]\n'
    )
    return root


def test_the_small_tree_breaks_no_rule_before_something_is_planted(tmp_path: Path) -> None:
    root = plant(tmp_path)
    assert all(rule(root) == [] for rule in RULES.values())


RULES: dict[str, Callable[[Path], list[str]]] = {
    "no circle between files": lambda root: house.circles(import_graph(root)),
    "rooms import only what stands above them": lambda root: house.upward_imports(import_graph(root)),
    "what runs on boards imports the standard library alone at the top": house.beyond_the_standard_library,
    "no module is named like one of the standard library": house.named_like_the_standard_library,
    "no test module imports another": house.imports_between_tests,
    "the packages in pyproject are those on disk": house.packages_not_as_on_disk,
    "every file is named in the map of its room": house.maps_that_miss_a_file,
    "no file is longer than 450 lines": house.long_files,
    "no room has more than 20 files": house.large_rooms,
}
MANY = ", ".join(f"a{number}" for number in range(9))
VIOLATIONS: dict[str, list[tuple[dict[str, str], str]]] = {
    "no circle between files": [
        ({"autoformer__data__a": "def f():\n    from autoformer.data.b import g\n",
          "autoformer__data__b": "import autoformer.data.a"},
         "autoformer.data.a -> autoformer.data.b -> autoformer.data.a"),
        ({"autoformer__data__a": "if TYPE_CHECKING:\n    from autoformer.data import b",
          "autoformer__data__b": "from autoformer.data import a"},
         "autoformer.data.a -> autoformer.data.b -> autoformer.data.a"),
    ],
    "rooms import only what stands above them": [
        ({"autoformer__space": "from autoformer.search.loop import search", "autoformer__search__loop": ""},
         "autoformer.space imports autoformer.search.loop"),
        ({"autoformer__cost": "def f():\n    import autoformer.cli.app"}, "autoformer.cost imports autoformer.cli.app"),
        ({"profiling__measuring__measure": "from autoformer.profiling.tables import table", "profiling__tables__table": ""},
         "autoformer.profiling.measuring.measure imports autoformer.profiling.tables.table"),
        ({"autoformer__drawer": ""}, "autoformer.drawer is on no floor"),
    ],
    "what runs on boards imports the standard library alone at the top": [
        ({"profiling__measuring__measure": "import math\nimport numpy as np"},
         "autoformer.profiling.measuring.measure imports numpy"),
        ({"cli__board__verify": "from PIL import Image"}, "autoformer.cli.board.verify imports PIL"),
        ({"cli__board__verify": "try:\n    import numpy\nexcept ImportError:\n    numpy = None"},
         "autoformer.cli.board.verify imports numpy"),
        ({"cli__board__verify": "from autoformer.metric import Score", "autoformer__metric": "import numpy as np"},
         "autoformer.metric imports numpy"),
    ],
    "no module is named like one of the standard library": [
        ({"profiling__measuring__statistics": ""}, "statistics"), ({"cli__inspect": ""}, "inspect"),
        ({"cli__profile__run": ""}, "profile"),
    ],
    "no test module imports another": [
        ({"tests__test_a": "from tests.test_b import helper", "tests__test_b": ""}, "tests/test_a.py imports tests.test_b"),
        ({"tests__data__test_a": "from tests.conftest import SHORT"}, "tests/data/test_a.py imports tests.conftest"),
    ],
    "the packages in pyproject are those on disk": [({"export__graphs__folding": ""}, "autoformer.export.graphs")],
    "every file is named in the map of its room": [
        ({"export__graphs__INIT": '"""ONNX: `folding`."""', "export__graphs__folding": "", "export__graphs__other": ""},
         "export/graphs/other.py"),
    ],
    "no file is longer than 450 lines": [
        ({"autoformer__space": "a = 1\n" * 451}, "autoformer/space.py has 451 lines"),
        ({"tests__test_a": "a = 1\n" * 451}, "tests/test_a.py has 451 lines"),
    ],
    "no room has more than 20 files": [
        ({f"cli__commands__c{number}": "" for number in range(21)}, "cli/commands has 22 files"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_this_tree_keeps_the_rule(rule: str) -> None:
    assert RULES[rule](ROOT) == []


@pytest.mark.parametrize(("rule", "sources", "said"), [(rule, *case) for rule, cases in VIOLATIONS.items() for case in cases])
def test_a_planted_violation_is_seen(tmp_path: Path, rule: str, sources: dict[str, str], said: str) -> None:
    assert RULES[rule](plant(tmp_path, **sources)) == [said]


def test_every_rule_has_a_violation_that_was_planted() -> None:
    assert VIOLATIONS.keys() == RULES.keys()


def test_no_function_takes_more_than_8_arguments_but_a_few_with_a_reason() -> None:
    found = {line.partition(" takes ")[0] for line in house.functions_of_many_arguments()}
    assert found == house.MANY_ARGUMENTS.keys()
    assert len(house.MANY_ARGUMENTS) <= house.MOST_EXCEPTIONS
    assert all(len(reason) > 20 for reason in house.MANY_ARGUMENTS.values())


def test_a_function_of_many_arguments_is_seen_and_a_command_is_none(tmp_path: Path) -> None:
    options = ", ".join(f"a{number}: Annotated[int, typer.Option()]" for number in range(9))
    root = plant(
        tmp_path,
        autoformer__space=f"def f({MANY}): ...\ndef g(a): ...\nclass C:\n    def __init__(self, {MANY}): ...\n",
        cli__commands__search=f"def search({options}): ...\ndef _search({MANY}): ...\ndef searched({MANY}): ...",
    )
    assert house.functions_of_many_arguments(root) == [
        "autoformer.cli.commands.search._search takes 9", "autoformer.cli.commands.search.searched takes 9",
        "autoformer.space.C.__init__ takes 9", "autoformer.space.f takes 9",
    ]  # fmt: skip


def loaded(modules: str, *forbidden: str) -> str:
    """Which of the forbidden modules are there after importing `modules` (with commas) in a process of its own."""
    code = f"import sys, {modules}; print([name for name in {forbidden} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_modules_of_values_or_numbers_import_no_torch_and_no_network() -> None:
    """All in one process; one by one only to name those that do."""
    modules, heavy = (*house.WITHOUT_TORCH, *house.NUMBERS_ONLY), ("torch", "timm", "autoformer.networks.supernet")
    if loaded(", ".join(modules), *heavy) != "[]":
        assert not [module for module in modules if loaded(module, *heavy) != "[]"]


def test_a_module_that_imports_torch_is_seen() -> None:
    assert loaded("torch.nn", "torch", "autoformer.networks.supernet") == "['torch']"


def test_every_room_has_a_map() -> None:
    import ast

    rooms = {path.parent for path in files().values()} - {ROOT / "profiling"}
    for room in rooms:
        said = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
        assert said, room
        assert len(said.splitlines()) <= 12, room


def test_no_file_holds_two_versions_of_a_merge() -> None:
    marks = ("<" * 7 + " ", ">" * 7 + " ")
    written = [path for folder in ("tests", "benchmarks", "docs", "recipes") for path in (ROOT / folder).rglob("*.*")]
    every = {*files().values(), *ROOT.glob("*.*"), *(path for path in written if path.suffix in (".py", ".md", ".yaml"))}
    lines = {path: path.read_text(encoding="utf-8").splitlines() for path in every if path.is_file()}
    assert [path.name for path, text in lines.items() if any(line.startswith(marks) for line in text)] == []
