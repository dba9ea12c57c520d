"""No code path of the search can read the test part: by what its modules may name, and with test images that cannot be opened."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autoformer.conditions import MeasurementConditions
from autoformer.cost import Budget, ExactCosts, count_flops
from autoformer.data.images import IDENTITY_BYTES
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig, Part
from autoformer.errors import DataError
from autoformer.files import read_json, write_json
from autoformer.networks.folders import load_supernet, save_supernet
from autoformer.networks.supernet import Supernet
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.tables.table import LatencyTable
from autoformer.search.config import Goal, SearchConfig
from autoformer.search.loop import search_supernet
from autoformer.space import SearchSpace
from tests.support.commands import Answer, command
from tests.support.source_tree import ROOT, file_of, files, imports

# --- what the modules may name -----------------------------------------------------------------------------------

CUTTERS = {
    "autoformer.data.parts",
    "autoformer.data.loading",
    "autoformer.data.sources",
    "autoformer.data.folders",
    "autoformer.data.images",
    "autoformer.data.tar_images",
    "autoformer.data.reading",
    "autoformer.data.remarks",
}
DOORS = {"test", "sealed", "indices", "open"}  # attributes that lead to test images: of DataParts, TestPart, Part, Images


def reachable(module: str) -> dict[str, ast.Module]:
    """`module` and all of ours that it imports, directly or not."""
    found: dict[str, ast.Module] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = file_of(name)
        if path is not None and name not in found:
            found[name] = ast.parse(path.read_text())
            waiting += [part for place, what in imports(found[name]) for part in (place, f"{place}.{what}")]
    return found


def words(tree: ast.AST) -> set[str]:
    """Every name, attribute and argument of a syntax tree."""
    found = set()
    for node in ast.walk(tree):
        for part in ("id", "attr", "arg"):
            if isinstance(name := getattr(node, part, None), str):
                found.add(name)
    return found


@pytest.mark.parametrize(
    "start",
    [
        "autoformer.search.loop",
        "autoformer.search.answer",
        "autoformer.profiling.tables.table",
        "autoformer.profiling.tables.loop",
    ],
)
def test_what_a_search_imports_knows_of_images_only_the_part_it_is_given(start: str) -> None:
    """`Part` holds some images of a source and no way to the other parts; the modules that cut parts are the only others."""
    modules = reachable(start)
    assert start in modules
    for name in set(modules) - CUTTERS:
        from_cutters = {what for place, what in imports(modules[name]) if place in CUTTERS}
        assert from_cutters <= {"Part"}, f"{name} imports {from_cutters}"
        named = words(modules[name])
        assert not named & {"TestPart", "DataParts", "load_parts", "parts_of_record", "import_module", "__import__"}, name
        parts = {node.arg for node in ast.walk(modules[name]) if isinstance(node, ast.arg) and shows(node.annotation, "Part")}
        for node in ast.walk(modules[name]):
            if isinstance(node, ast.Attribute) and node.attr in DOORS:
                assert node.attr in ("indices", "open"), f"{name}, line {node.lineno}, names .{node.attr}"
                assert not (shows(node.value, *parts)), f"{name}, line {node.lineno}, reaches into a part"


def shows(node: ast.AST | None, *names: str) -> bool:
    """Whether one of the names stands in the expression."""
    return node is not None and any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node))


def test_the_search_can_reach_the_modules_that_cut_parts_so_the_rule_above_says_something() -> None:
    assert {"autoformer.data.parts", "autoformer.evaluate"} <= set(reachable("autoformer.search.loop"))
    assert {"test", "sealed", "TestPart"} <= words(reachable("autoformer.data.parts")["autoformer.data.parts"])


def test_every_caller_of_a_search_gives_it_the_search_part() -> None:
    given = {}
    for path in files().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "search_supernet":
                given[f"{path.relative_to(ROOT).as_posix()}, line {node.lineno}"] = ast.unparse(node.args[1])
    assert {place.partition(",")[0] for place in given} >= {"cli/commands/search.py", "cli/chain/chain.py"}
    assert set(given.values()) == {"parts.search"}, given


def test_the_command_takes_two_things_of_its_data_and_neither_is_the_test_part() -> None:
    tree = reachable("autoformer.cli.commands.search")["autoformer.cli.commands.search"]
    taken = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "parts"
    }
    assert taken == {"search", "preprocessing"}
    assert not words(tree) & {"test", "sealed", "TestPart"}


# --- whole searches beside test images that cannot be opened -----------------------------------------------------

SPACE = SearchSpace.preset("micro", image_size=8, in_chans=3, num_classes=3)
SHORT = ("population=6", "generations=2", "parents=3", "mutated=3", "crossed=3", "uniform_shapes=2")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and test images of three classes. The test images are broken in the middle: what tells a file from others is its
    size and its two ends, so the data set counts as unchanged, and none of them can be decoded."""
    root, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 6)):
        for name in ("a", "b", "c"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def supernet(images: Path) -> Path:
    """A supernet that has learned nothing, with the record of these images as they were before their test part broke."""
    out = images.parent / "supernet"
    torch.manual_seed(0)
    parts = load_parts(DataConfig(source=str(images), image_size=8, search_fraction=0.4))
    save_supernet(Supernet(SPACE), out, source="nothing")
    write_json({**read_json(out / "supernet.json"), "data": parts.record}, out / "supernet.json")
    for path in (images / "test").rglob("*.png"):
        content = bytearray(path.read_bytes())
        assert len(content) > 2 * IDENTITY_BYTES + 1000
        content[IDENTITY_BYTES : IDENTITY_BYTES + 1000] = bytes(1000)
        path.write_bytes(content)
    again = load_parts(parts.config)
    assert again.digest == parts.digest
    return out


@pytest.fixture(scope="module")
def table(supernet: Path) -> Path:
    """Latencies as if measured: 0.05 ms and 50 ms per GFLOP."""
    rng = random.Random(0)
    networks = [SPACE.smallest, SPACE.largest, *(SPACE.sample(rng) for _ in range(4))]
    means = MeasurementConditions(statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device="a test")
    measured = [(network, 0.05 + 50 * count_flops(network, SPACE) / 1e9) for network in networks]
    path = supernet.parent / "table.json"
    LatencyTable.fit(SPACE, means, measured, device=DeviceFacts.collect()).save(path)
    return path


def searched(supernet: Path, out: Path, *options: object, settings: tuple[str, ...] = ()) -> Answer:
    chosen = [word for setting in (*SHORT, *settings) for word in ("--set", setting)]
    return command("search", "--supernet", supernet, "--out", out, "--max-flops", "80%", "--quiet", *chosen, *options)


@pytest.mark.parametrize("method", ["evolution", "random", "pareto", "predictor"])
def test_every_method_searches_where_no_test_image_can_be_opened(supernet: Path, tmp_path: Path, method: str) -> None:
    answer = searched(supernet, tmp_path / "s", "--json", settings=(f"method={method}",))
    assert answer.code == 0, answer.err
    assert answer.json["result"]["searched"] == 12
    assert not list(tmp_path.rglob("*ledger*"))


def test_latencies_and_other_budgets_need_no_test_image(supernet: Path, table: Path, tmp_path: Path) -> None:
    answer = searched(supernet, tmp_path / "s", "--max-latency", "80%", "--latency-table", table)
    assert answer.code == 0, answer.err
    again = command("search", "--from", tmp_path / "s", "--max-latency", "75%", "--out", tmp_path / "again")
    assert again.code == 0, again.err
    assert not list(tmp_path.rglob("*ledger*"))


def test_halving_and_held_out_images_need_no_test_image(supernet: Path, tmp_path: Path) -> None:
    """On the 24 search images: 5 are held out, 5 compare all candidates, 19 the best of them."""
    answer = searched(supernet, tmp_path / "s", "--json", settings=("rungs=[0.25, 1]", "confirmation=0.2"))
    assert answer.code == 0, answer.err
    assert answer.json["images"]["rungs"] == [5, 19]
    assert answer.json["images"]["confirmation"] == 5
    assert answer.json["images"]["evaluated"] < 12 * 19
    assert not list(tmp_path.rglob("*ledger*"))


@pytest.mark.slow
def test_two_processes_need_no_test_image(supernet: Path, tmp_path: Path) -> None:
    answer = searched(supernet, tmp_path / "s", "--workers", "2")
    assert answer.code == 0, answer.err
    assert "ended early" not in answer.err


def test_whoever_opens_the_test_part_of_these_images_fails(supernet: Path, images: Path, tmp_path: Path) -> None:
    """The control: without it the tests above would say nothing."""
    parts = load_parts(DataConfig(source=str(images), image_size=8, search_fraction=0.4))
    assert parts.search.pixels(parts.preprocessing).shape == (24, 8, 8, 3)
    for position in range(len(parts.test)):
        with pytest.raises(DataError, match="cannot be read as an image"):
            parts.test.sealed[position]
    assert command("extract", "--supernet", supernet, "--architecture", "smallest", "--out", tmp_path / "n").code == 0
    assert command("evaluate", tmp_path / "n", "--quiet").code == 0
    assert "cannot be read as an image" in command("evaluate", tmp_path / "n", "--part", "test", "--quiet").error


def test_a_search_refuses_the_test_part(supernet: Path, images: Path, tmp_path: Path) -> None:
    network, parts = load_supernet(supernet), load_parts(DataConfig(source=str(images), image_size=8))
    goal = Goal(costs=ExactCosts(SPACE), budget=Budget())
    for part in (parts.test.read("a test"), Part("test", parts.search.images, parts.search.indices)):
        with pytest.raises(DataError, match="was given the test part"):
            search_supernet(network, part, parts.preprocessing, goal, SearchConfig(), tmp_path / "s")
    assert not (tmp_path / "s").exists()
