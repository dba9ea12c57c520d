"""The arithmetic of benchmarks/search_regret.py, on tables made by hand."""

from __future__ import annotations

import importlib
import random
import sys
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoformer.cost import Budget, ExactCosts, count_flops
from autoformer.data.loading import load_parts
from autoformer.data.parts import DataConfig
from autoformer.drawing.budgeted import Candidates
from autoformer.evaluate import predict_with
from autoformer.networks.supernet import Supernet

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _programs() -> Iterator[None]:
    """The programs import each other as they do when they are started."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def program(name: str) -> Any:
    return importlib.import_module(name)


# --- the space and its truth -------------------------------------------------------------------------------------


def test_every_network_of_the_space_is_there_once() -> None:
    truth = program("search_regret_truth")
    networks = truth.every_network(truth.SPACE)
    assert len(networks) == len(set(networks)) == truth.SPACE.size == 1008
    assert all(truth.SPACE.contains(network) for network in networks)


@pytest.mark.slow
def test_shared_beginnings_change_no_prediction() -> None:
    truth = program("search_regret_truth")
    torch.manual_seed(0)
    supernet = Supernet(truth.SPACE)
    with torch.no_grad():
        for weight in supernet.parameters():
            if weight.ndim > 1:
                weight.mul_(5)  # so that networks differ
    networks = truth.every_network(truth.SPACE)[::7]
    images = np.random.default_rng(0).normal(size=(20, 3, 32, 32)).astype(np.float32)
    found = truth.predictions_of_all(supernet, networks, images)
    alone = np.stack([predict_with(supernet, network)(images).argmax(-1) for network in networks])
    assert (found == alone).all()
    assert len({row.tobytes() for row in alone}) > len(networks) // 2
    again = truth.predictions_of_all(supernet, networks, images[::-1].copy())  # nothing is remembered of other images
    assert (again == alone[:, ::-1]).all()


def test_parts_that_are_cut_out_are_disjoint_and_as_large_as_asked_for() -> None:
    part = load_parts(DataConfig()).train
    found = program("search_regret_truth").cut(part, {"train": 400, "truth": 200})
    assert [len(found[name]) for name in ("train", "truth")] == [pytest.approx(400, abs=5), pytest.approx(200, abs=5)]
    assert not set(found["train"].indices) & set(found["truth"].indices)
    assert set(found["train"].indices) | set(found["truth"].indices) <= set(part.indices)
    counts = np.bincount(found["truth"].labels)
    assert counts.max() - counts.min() <= 2


def made_truth(right: Any, counts: Any, images: int) -> Any:
    truth = program("search_regret_truth")
    labels = np.arange(right.shape[1]) % 10
    return truth.Truth(right, labels, counts, images, tuple(truth.every_network(truth.SPACE)))


def test_a_truth_that_is_stored_is_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = made_truth(rng.random((1008, 37)) < 0.5, rng.integers(0, 3000, 1008), 3000)
    truth.save(tmp_path / "t.npz")
    again = type(truth).load(tmp_path / "t.npz")
    assert (again.search_right == truth.search_right).all()
    assert (again.search_labels == truth.search_labels).all()
    assert (again.accuracy == truth.accuracy).all()


# --- regret ------------------------------------------------------------------------------------------------------


def test_regret_is_to_the_best_inside_the_budget_and_not_to_a_dearer_one() -> None:
    regret, truth = program("search_regret"), program("search_regret_truth")
    order = sorted(truth.every_network(truth.SPACE), key=lambda network: count_flops(network, truth.SPACE))
    cheapest = order[0]
    second = next(network for network in order if count_flops(network, truth.SPACE) > count_flops(cheapest, truth.SPACE))
    third = next(network for network in order if count_flops(network, truth.SPACE) > count_flops(second, truth.SPACE))
    rows = {network: row for row, network in enumerate(truth.every_network(truth.SPACE))}
    counts = np.zeros(1008, np.int64)
    counts[rows[cheapest]], counts[rows[second]], counts[rows[third]] = 50, 70, 90  # of 200
    limit = (count_flops(second, truth.SPACE) + count_flops(third, truth.SPACE)) / 2
    table = regret.Table(made_truth(np.zeros((1008, 10), bool), counts, 200), limit)
    assert {cheapest, second} <= set(table.inside)
    assert third not in table.inside
    assert table.regret(cheapest) == pytest.approx(10.0)
    assert table.regret(second) == pytest.approx(0.0)


def test_searches_of_a_truth_without_noise_pick_the_best_they_have_seen() -> None:
    """Accuracy grows with FLOPs, on the search images as on the truth's: then the most expensive in the budget is the best."""
    regret, truth = program("search_regret"), program("search_regret_truth")
    networks = truth.every_network(truth.SPACE)
    rank = np.argsort(np.argsort([count_flops(network, truth.SPACE) for network in networks]))
    right = np.arange(1008)[None] <= rank[:, None]
    limit = regret.limit_of(0.4)
    table, candidates = (
        regret.Table(made_truth(right, rank, 1008), limit),
        Candidates(truth.SPACE, ExactCosts(truth.SPACE), Budget(max_flops=limit)),
    )
    others = regret.compared(table, candidates, 0)
    assert others["all inside"]["best"] == 0
    assert others["most expensive in the budget"]["best"] < 0.5  # networks of equal FLOPs share a place here
    assert others["all inside"]["images"] == len(table.inside) * 1008
    found = regret.searched(table, candidates, {"method": "random"}, 0)
    assert (found["networks"], found["images"]) == (50, 50 * 1008)
    assert 0 < found["best"] <= found["cheapest"]
    assert found["with baselines"] <= found["best"]
    better = regret.searched(table, candidates, {"method": "evolution"}, 0)
    assert better["best"] < found["best"]
    seen = random.Random(0).choice(table.inside)
    whole = table.predictions(seen, slice(None))
    assert (whole == table.labels).mean() == pytest.approx(table.seen(seen))
    assert (table.predictions(seen, slice(100, 300)) == whole[100:300]).all()


def test_halving_asks_for_the_images_of_its_rungs_and_picks_among_what_it_took_to_the_last() -> None:
    """A generation of 10: 10 on 125 images, 3 go on to 500, 1 to all 2,000; five generations. Accuracy grows with FLOPs."""
    regret, truth = program("search_regret"), program("search_regret_truth")
    flops = np.asarray([count_flops(network, truth.SPACE) for network in truth.every_network(truth.SPACE)])
    rng = np.random.default_rng(0)
    right = rng.random((1008, 2000)) < (flops / flops.max())[:, None]
    limit = regret.limit_of(0.6)
    table = regret.Table(made_truth(right, (2000 * flops / flops.max()).astype(int), 2000), limit)
    candidates = Candidates(truth.SPACE, ExactCosts(truth.SPACE), Budget(max_flops=limit))
    halved = regret.searched(table, candidates, regret.ARMS["evolution, halving"], 0)
    assert (halved["networks"], halved["images"]) == (50, 5 * (10 * 125 + 3 * 375 + 1 * 1500))
    assert halved["images"] <= 50 * 2000 / 5
    equal = regret.searched(table, candidates, regret.ARMS["evolution, halving, equal images"], 0)
    assert equal["images"] <= 50 * 2000
    one = regret.compared(table, candidates, 0)["one drawn"]["best"]
    assert halved["best"] < one


# --- intervals ---------------------------------------------------------------------------------------------------


def made_rows(**arms: list[list[float]]) -> list[dict[str, Any]]:
    """A row per number: of each arm a list per supernet, a number per seed."""
    return [
        {"supernet": f"supernet{number}", "share": 0.4, "seed": seed, "arm": arm.replace("_", " "), "best": value}
        for arm, supernets in arms.items()
        for number, values in enumerate(supernets)
        for seed, value in enumerate(values)
    ]


def test_an_interval_is_students_over_the_means_of_the_supernets() -> None:
    """Means 1, 2 and 3: deviation 1, quantile of t with 2 degrees of freedom 4.3027 (tables), so 2 ± 4.3027 / √3."""
    report = program("regret_report")
    rows = made_rows(a=[[0.0, 2.0], [2.0, 2.0, 2.0, 2.0], [1.0, 5.0]])
    mean, low, high = report.interval(report.regrets(rows, "a"))
    assert mean == pytest.approx(2.0)
    assert (low, high) == (pytest.approx(2 - 2.4841, abs=1e-3), pytest.approx(2 + 2.4841, abs=1e-3))


def test_on_given_supernets_the_seeds_are_what_varies() -> None:
    """Means of the seeds 1 and 3: deviation √2, quantile of t with one degree of freedom 12.706 (tables)."""
    report = program("regret_report")
    rows = made_rows(a=[[0.0, 5.0], [2.0, 1.0]])
    found = report.interval(report.regrets(rows, "a"), report.SEED)
    assert found == (pytest.approx(2.0), pytest.approx(2 - 12.706, abs=1e-3), pytest.approx(2 + 12.706, abs=1e-3))


def test_differences_are_taken_search_by_search() -> None:
    """The arms vary by whole points from seed to seed, their difference hardly at all."""
    report = program("regret_report")
    rows = made_rows(a=[[1.0, 9.0], [4.0, 0.0], [2.0, 2.0]], b=[[1.5, 9.5], [4.4, 0.4], [2.6, 2.6]])
    found = report.difference(report.regrets(rows, "a"), report.regrets(rows, "b"))
    assert found == (pytest.approx(-0.5), pytest.approx(-0.7484, abs=1e-3), pytest.approx(-0.2516, abs=1e-3))
    assert report.verdict(found) == "beats it"
    assert report.verdict((0.5, 0.2, 0.8)) == "loses to it"
    assert report.verdict((-0.5, -1.1, 0.1)) == "not significantly different"
    with pytest.raises(AssertionError, match="same searches"):
        report.difference(report.regrets(rows, "a"), report.regrets(rows[:-1], "b"))
    with pytest.raises(AssertionError, match="twice"):
        report.regrets([*rows, rows[0]], "a")


def test_the_record_keeps_means_over_seeds() -> None:
    found = program("search_regret").means(made_rows(a=[[0.0, 2.0], [5.0, 6.0]]))
    assert [(row["supernet"], row["arm"], row["seeds"], row["best"]) for row in found] == [
        ("supernet0", "a", 2, 1.0),
        ("supernet1", "a", 2, 5.5),
    ]


def record_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    for row in rows:
        row.update({"networks": 50, "images": 1000, "cheapest": row["best"] + 1, "with baselines": row["best"]})
        row.update({"best flops": 0.9, "cheapest flops": 0.5})
    accuracy = {"lowest": 30.0, "highest": 45.0}
    return {
        "rows": rows, "arms": {"evolution": {"method": "evolution"}, "random": {"method": "random"}}, "networks": 1008,
        "supernets": {f"supernet{number}": {"accuracy": accuracy} for number in range(3)}, "inside": {"0.4": 700},
        "command": "a command", "version": "0", "halved": {"random": "evolution"},
    }  # fmt: skip


def test_the_report_says_which_methods_beat_random_and_the_baselines_and_the_figure_is_well_formed() -> None:
    report = program("regret_report")
    record = record_of(
        made_rows(
            evolution=[[1.0, 1.2], [1.1, 1.3], [1.0, 1.0]],
            random=[[1.5, 1.8], [1.6, 1.8], [1.5, 1.6]],
            most_expensive_in_the_budget=[[1.0, 1.0], [1.2, 1.2], [1.1, 1.1]],
            homogeneous_baseline=[[2.0, 2.0], [2.1, 2.0], [2.2, 2.0]],
        )
    )
    text = report.markdown(record)
    assert "Methods that beat random: evolution." in text
    assert "That beat the most expensive in the budget: none." in text
    assert "That beat the homogeneous baseline: evolution, random." in text
    assert "| random | 50 | 100 % | +0.53" in text  # of the table of halving, which names this pair
    root = xml.fromstring(report.figure(record))
    names = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"evolution", "random", "most expensive in the budget", "homogeneous baseline"} <= set(names)
    circles = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == 4 + 3 + 3
