"""What people and this tool write, damaged: recipes with overrides, and the JSON of a finished run, given to all readers."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from autoformer.cli.chain.recipe import Recipe, load_recipe, parse_recipe
from autoformer.export.manifest import Manifest
from autoformer.networks.folders import load_subnet, load_supernet
from autoformer.parsing import read_space
from autoformer.profiling.profiles.latency import Profile
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.tables.table import LatencyTable
from autoformer.search.record import SearchRecord
from autoformer.settings import read_yaml, write_yaml
from tests.support.mutations import TEXTS, VALUES, damaged_bytes, damaged_json

ROOT = Path(__file__).parents[2]
WORDS = (
    "off", "yes", "010", "0o7", "1:30", "1e-3", "1e400", ".nan", "-.inf", "null", "~", "true", "2001-01-01", "9" * 5000, "[]",
    "{}", "[1, [2, {a: b}]]", "{a: 1, a: 2}", "*x", "&x [*x]", "!!int a", "!!python/object:os.system x", "<<", "'", '"', "- -",
    "?", "|", "%", "@", "`", "#", ": :", "\x00", "é\u2028", "\t", "a: b: c", "--- 1", "x" * 3000, "[" * 200, "[[a]]" * 50,
    "\ud800", "-1", "0",
)  # fmt: skip


# --- recipes ---------------------------------------------------------------------------------------------------------


def damaged_text(text: str, rng: random.Random) -> str:
    """A recipe with lines exchanged, doubled, moved, indented otherwise or with other values, or with its bytes damaged."""
    if rng.random() < 0.2:
        return damaged_bytes(text.encode(), rng).decode("utf-8", "replace")
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        key, colon, _value = lines[at].partition(":")
        match rng.randrange(9):
            case 0:
                lines.insert(other, lines[at])
            case 1:
                lines[at], lines[other] = lines[other], lines[at]
            case 2:
                del lines[at : at + rng.choice((1, 1, 5))]
                lines = lines or ["seed: 1"]
            case 3:
                lines[at] = rng.choice(("", " ", "   ", "\t")) + lines[at]
            case 4:
                lines[at] = lines[at].lstrip()
            case 5:
                lines[at] = f"{key}: &a{rng.randrange(3)} {_value}"
                lines.insert(rng.randrange(at, len(lines)) + 1, f"{rng.choice(('', '  '))}{rng.choice(('<<', 'x', 'flip'))}: *a0")
            case _:
                lines[at] = f"{key}{colon or ':'} {rng.choice(WORDS)}"
    return "\n".join(lines)


def override(rng: random.Random) -> str:
    """A word for --set: a setting, or nearly one, and a value."""
    section = rng.choice(sorted(Recipe.model_fields))
    kind = Recipe.model_fields[section].annotation
    names = sorted(getattr(kind, "model_fields", {})) or [""]
    key = rng.choice((f"{section}.{rng.choice(names)}", section, rng.choice(TEXTS), f"{section}.augment.flip", "a.b.c"))
    return f"{key}{rng.choice(('=', '=', '=', '', '=='))}{rng.choice(WORDS + TEXTS)}"


def agrees(path: Path, overrides: list[str]) -> None:
    """What is taken for a recipe is the same recipe once it was written and read again."""
    recipe = load_recipe(path, overrides)
    assert parse_recipe(read_yaml(write_yaml(recipe.model_dump(mode="json")))) == recipe


def try_recipe(
    originals: Path, place: Path, rng: random.Random, attempt: Callable[[Callable[[], object]], str], said: Callable[..., str]
) -> Iterator[str]:
    source = rng.choice(sorted((ROOT / "recipes").glob("*.yaml")))
    path = place / "recipe.yaml"
    path.write_text(damaged_text(source.read_text(), rng), encoding="utf-8", errors="replace")
    overrides = [override(rng) for _ in range(rng.choice((0, 0, 1, 2)))]
    yield attempt(lambda: agrees(path, overrides))
    yield attempt(lambda: agrees(source, overrides))
    yield attempt(lambda: read_space(str(path)))
    if rng.random() < 0.1:
        yield said("describe", path)
        settings = [word for one in overrides if one.startswith("data.") for word in ("--set", one)]
        yield said("data", "check", originals / "folder", "--no-near", "--quiet", *settings)


# --- what a run leaves ------------------------------------------------------------------------------------------------

FILES = (
    "run.json", "identity.json", "budget.json", "test.json", "test_ledger.json", "steps.json", "latency.json",
    "latency_table.json", "layers.json", "report.json", "supernet/supernet.json", "supernet/identity.json",
    "supernet/data.json",
    "search/search.json", "search/latency_answer.json", "subnet/config.json", "subnet/architecture.json", "subnet/subnet.json",
    "finetuned/config.json", "finetuned/architecture.json", "finetuned/subnet.json", "export/manifest.json",
    "export/model.fp32.scopes.json",
)  # fmt: skip


def damage(path: Path, rng: random.Random) -> None:
    """Changes one JSON file, mostly so that it is still JSON."""
    if rng.random() < 0.15:
        path.write_bytes(damaged_bytes(path.read_bytes(), rng))
        return
    value = json.loads(path.read_text())
    for _ in range(rng.choice((1, 1, 1, 2))):
        value = damaged_json(value, rng)
    if rng.random() < 0.02:
        value = rng.choice(VALUES)
    path.write_text(json.dumps(value), encoding="utf-8", errors="replace")


def try_manifest(
    originals: Path, place: Path, rng: random.Random, attempt: Callable[[Callable[[], object]], str], said: Callable[..., str]
) -> Iterator[str]:
    """One or two files of a finished run are damaged; what reads them runs, and of the commands those that open that folder."""
    run = place / "run"
    shutil.copytree(ROOT / "tests" / "data" / "written_by_0_1" / "run", run)
    name = rng.choice(FILES)
    damage(run / name, rng)
    if rng.random() < 0.2:
        with contextlib.suppress(ValueError):  # damaged already
            damage(run / rng.choice(FILES), rng)
    image = originals / "image.png"
    folder = (run / name).parent
    yield attempt(lambda: READERS.get(name, Run.load)(run if name not in READERS else run / name))
    yield said("describe", folder)
    if folder == run:
        yield said("report", "build", run)
    elif folder.name in ("export", "subnet", "finetuned"):
        yield said("predict", folder / "model.fp32.onnx" if folder.name == "export" else folder, image)
    elif folder.name == "search":
        yield said("search", "--from", folder, "--max-params", "90%")
    if rng.random() < 0.1:
        yield said("evaluate", run / rng.choice(("export/model.fp32.onnx", "finetuned")), "--quiet")
        yield said("bundle", run, "--out", place / "bundle")
    if rng.random() < 0.05:
        yield said("run", run / "recipe.yaml", "--out", run, "--quiet")


READERS: dict[str, Callable[[Path], object]] = {
    "supernet/supernet.json": lambda path: load_supernet(path.parent),
    "search/search.json": lambda path: SearchRecord.load(path.parent),
    "subnet/config.json": lambda path: load_subnet(path.parent),
    "subnet/architecture.json": lambda path: load_subnet(path.parent),
    "finetuned/config.json": lambda path: load_subnet(path.parent),
    "export/manifest.json": lambda path: Manifest.load(path.parent),
    "latency.json": Profile.load,
    "latency_table.json": LatencyTable.load,
}
