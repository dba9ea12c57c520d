"""Tables fitted on latencies that are known, and one measured for real."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import nn

from autoformer.architecture import Architecture
from autoformer.cost import Budget, Cost, LinearLatency, check_feasible, count_flops, count_params
from autoformer.errors import BudgetError, CheckpointError, MeasurementError
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig
from autoformer.profiling.tables.costs import TableCosts
from autoformer.profiling.tables.design import designed_architectures
from autoformer.profiling.tables.measuring import TableConfig, measure_table
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import SearchSpace
from tests.support.backends import graph
from tests.support.measurements import FACTS
from tests.support.small_spaces import designed
from tests.support.tables import MEANING, MICRO, WIDE, fitted

QUICK = MeasureConfig(warmup_s=0, warmup_max_s=0.05, warmup_window=2, rounds=2, lead_in_runs=0, min_runs=20, min_s=0, max_s=2)


def test_fit_recovers_known_coefficients() -> None:
    table = fitted(lambda index, flops: 0.2 + 50 * flops / 1e9)
    assert dict(table.coefficients) == pytest.approx({"constant_ms": 0.2, "ms_per_gflop": 50}, rel=1e-9)
    assert table.cross_validation_worst < 1e-9
    assert table.margin < 1e-9
    assert table.predict(MICRO.middle) == pytest.approx(0.2 + 50 * count_flops(MICRO.middle, MICRO) / 1e9, rel=1e-9)


def test_fit_has_the_least_relative_error_and_left_out_errors_are_those_of_refits() -> None:
    noise = [1.05, 0.97, 1.1, 1.0, 0.93, 1.02, 0.99, 1.08]
    table = fitted(lambda index, flops: noise[index] * (0.3 + 40 * flops / 1e9))
    flops = np.array([network.flops / 1e9 for network in table.networks])
    times = np.array([network.measured_ms for network in table.networks])

    def solve(rows: list[int]) -> tuple[float, float]:
        answer = least_squares(lambda x: (x[0] + x[1] * flops[rows]) / times[rows] - 1, [1.0, 1.0], xtol=1e-14, gtol=1e-14)
        return answer.x[0], answer.x[1]

    assert tuple(table.coefficients.values()) == pytest.approx(solve(list(range(8))), rel=1e-6)
    expected = []
    for index, network in enumerate(table.networks):
        constant, slope = solve([row for row in range(8) if row != index])
        expected.append((constant + slope * flops[index]) / times[index] - 1)
        assert network.cross_validation_error == pytest.approx(expected[-1], abs=1e-6)
    assert table.cross_validation_mape == pytest.approx(np.mean(np.abs(expected)), abs=1e-6)
    assert table.cross_validation_worst == pytest.approx(np.max(np.abs(expected)), abs=1e-6)
    upwards = np.array([1 / (1 + error) - 1 for error in expected])
    constant, slope = solve(list(range(8)))
    ends = [0, 7]  # the smallest and the largest network of the space: by the fit of all
    upwards[ends] = times[ends] / (constant + slope * flops[ends]) - 1
    # Student's t with 7 degrees of freedom, 97.5 %: a further network, the mean of 8, and the median of 6 that give the factor.
    bound = upwards.mean() + 2.3646 * upwards.std(ddof=1) * np.sqrt(1 + 1 / 8 + np.pi / 12)
    assert table.margin == pytest.approx(max(bound, upwards.max()), abs=1e-4)
    earlier = replace(table, ends_by_fit=False)
    assert earlier.margin > table.margin
    assert "ends_by_fit" not in earlier.to_dict()  # whose digest searches of earlier versions know
    assert table.cross_validation_quantile(0.5) == pytest.approx(sorted(np.abs(expected))[3], abs=1e-6)


def launches(index: int, architecture: Architecture) -> float:
    """0.2 ms, 0.05 ms a block and 40 ms per GFLOP: what launching kernels block by block costs."""
    return 0.2 + 0.05 * architecture.depth + 40 * count_flops(architecture, MICRO) / 1e9


def fitted_by_network(
    latency_ms: Callable[[int, Architecture], float], count: int = 8, space: SearchSpace = MICRO
) -> LatencyTable:
    measured = [(a, latency_ms(index, a)) for index, a in enumerate(designed(space, count))]
    return LatencyTable.fit(space, MEANING, measured, device=FACTS)


def test_latency_by_depth_and_flops_is_recovered_and_named() -> None:
    table = fitted_by_network(launches)
    assert table.kind == "constant+depth+flops"
    assert tuple(table.coefficients.values()) == pytest.approx((0.2, 0.05, 40), rel=1e-6)
    assert table.predict(MICRO.middle) == pytest.approx(launches(0, MICRO.middle), rel=1e-9)
    assert "0.2 ms + 0.05 ms per block + 40 ms per GFLOP" in str(table)
    assert "constant+depth+flops kept over constant+flops" in str(table)


def test_both_kinds_stand_in_the_table_with_the_errors_of_refits() -> None:
    noise = [1.05, 0.97, 1.1, 1.0, 0.93, 1.02, 0.99, 1.08]
    table = fitted_by_network(lambda index, a: noise[index] * launches(index, a))
    times = np.array([network.measured_ms for network in table.networks])
    columns = {
        "constant+flops": [(1.0, network.flops / 1e9) for network in table.networks],
        "constant+depth+flops": [(1.0, network.architecture.depth, network.flops / 1e9) for network in table.networks],
    }
    for kind, rows in columns.items():
        features, errors = np.array(rows), []
        for index in range(8):
            kept = [row for row in range(8) if row != index]
            scaled = features[kept] / times[kept, None]
            solved = np.linalg.solve(scaled.T @ scaled, scaled.T @ np.ones(7))  # the normal equations
            errors.append(abs(features[index] @ solved / times[index] - 1))
        assert table.compared[kind].mape == pytest.approx(np.mean(errors), rel=1e-6)
        assert table.compared[kind].worst == pytest.approx(np.max(errors), rel=1e-6)
    assert table.cross_validation_mape == table.compared[table.kind].mape
    assert table.to_dict()["compared"]["constant+flops"]["mape"] == table.compared["constant+flops"].mape


def test_the_plainer_kind_is_kept_where_noise_could_make_the_difference() -> None:
    assert fitted(lambda index, flops: 0.2 + 50 * flops / 1e9).kind == "constant+flops"
    kept = set()
    for seed in range(6):
        noise = np.random.default_rng(seed).normal(1, 0.02, 12)
        table = fitted_by_network(lambda index, a, noise=noise: noise[index] * (0.2 + 50 * count_flops(a, MICRO) / 1e9), 12)  # type: ignore[misc]
        better = table.compared.get("constant+depth+flops")
        kept.add(table.kind)
        if table.kind == "constant+depth+flops":
            assert better is not None
            assert better.mape < table.compared["constant+flops"].mape
    assert "constant+flops" in kept


def test_depth_takes_six_networks() -> None:
    assert list(fitted_by_network(launches, 5).compared) == ["constant+flops"]
    assert {"constant+flops", "constant+depth+flops"} <= set(fitted_by_network(launches, 6).compared)


def test_blocks_that_seem_to_save_time_are_no_model() -> None:
    table = fitted_by_network(lambda index, a: 1.0 - 0.05 * a.depth + 80 * count_flops(a, MICRO) / 1e9)
    assert table.kind == "constant+flops"


def test_a_file_from_before_there_were_kinds_is_read(tmp_path: Path) -> None:
    table = fitted(lambda index, flops: 0.2 + (50 + index) * flops / 1e9)
    values = {**table.to_dict(), "format": "autoformer/latency-table/1"}
    for name in ("compared", "rebuilding", "stopped"):
        del values[name]
    for network in values["networks"]:
        for name in ("low_ms", "high_ms", "instances_ms"):
            del network[name]
    (tmp_path / "old.json").write_text(json.dumps(values))
    old = LatencyTable.load(tmp_path / "old.json")
    assert replace(table, compared={}) == old
    assert old.predict(MICRO.middle) == table.predict(MICRO.middle)


def elementwise(index: int, architecture: Architecture) -> float:
    """Per million values over all tokens: 3 ms for softmax, 20 ms for GELU, 7 ms for the rest."""
    tokens = (8 // MICRO.patch_size) ** 2 + 1
    heads, hidden = sum(architecture.num_heads), sum(architecture.hidden_dims)
    values = 3 * tokens**2 * heads + 20 * tokens * hidden + 7 * tokens * architecture.depth * architecture.embed_dim
    return values / 1e6


def test_latency_by_values_is_recovered_where_products_cost_nothing() -> None:
    table = fitted_by_network(elementwise)
    assert table.kind == "activations"
    assert tuple(table.coefficients.values()) == pytest.approx((3, 20, 7), rel=1e-6)
    assert table.predict(MICRO.middle) == pytest.approx(elementwise(0, MICRO.middle), rel=1e-9)
    assert "3 ms per million attention weights" in table.model


def test_a_price_is_never_negative() -> None:
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(1, 0.1, 12)
        table = fitted_by_network(lambda index, a, noise=noise: noise[index] * launches(index, a), 12)  # type: ignore[misc]
        assert min(table.coefficients.values()) >= 0


def test_latency_terms_say_what_each_head_and_hidden_channel_adds() -> None:
    table = fitted_by_network(launches)
    base, per_head, per_hidden = table.latency_terms(MICRO.middle.embed_dim, MICRO.middle.depth, 8)
    heads, hidden = sum(MICRO.middle.num_heads), sum(MICRO.middle.hidden_dims)
    assert base + per_head * heads + per_hidden * hidden == pytest.approx(launches(0, MICRO.middle), rel=1e-9)
    costs = TableCosts(MICRO, table)
    assert isinstance(costs, LinearLatency)
    cost = costs(MICRO.middle)
    assert costs.latency_of(MICRO.middle, cost.flops) == cost.latency_ms
    with pytest.raises(MeasurementError, match="the latency table measured"):
        costs.latency_of(MICRO.middle, 10**12)


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    with_depth = fitted_by_network(launches)
    with_depth.save(tmp_path / "depth.json")
    assert LatencyTable.load(tmp_path / "depth.json") == with_depth
    table = fitted(lambda index, flops: 0.2 + (50 + index) * flops / 1e9)
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == table
    values = json.loads((tmp_path / "table.json").read_text())
    assert values["format"] == "autoformer/latency-table/3"
    assert values["left_out"]["margin"] == table.margin


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds a list"),
        ('{"format": "autoformer/latency-table/9"}', "has format 'autoformer/latency-table/9', expected"),
        (lambda values: values.pop("coefficients"), "lacks 'coefficients'"),
        (lambda values: values.update(kind="magic"), "kind of model is 'magic'"),
        (lambda values: values.update(kind="constant+depth+flops"), "'ms_per_block' is missing"),
        (lambda values: values.update(kind=[]), r"kind is \[\], expected a text"),
        (lambda values: values.update(coefficients={"constant_ms": 1, "ms_per_gflop": -1}), "does not grow"),
        (lambda values: values.update(compared={"constant+flops": {"mape": -1, "worst": 2}}), "cross-validation errors -1"),
        (lambda values: values.update(compared={"constant+flops": {"mape": 1}}), "worst"),
        (lambda values: values.update(networks=[]), "0 networks, expected 4 or more"),
        (lambda values: values.update(space={"name": "x"}), "not a search space"),
        (lambda values: values.update(qualification={"batch": 1}), "qualification lacks 'statistic'"),
        (lambda values: values["networks"][2].update(measured_ms=-1), r"networks\[2\]: .* expected positive ones"),
        (
            lambda values: values["networks"][2].update(measured_ms="slow"),
            r"networks\[2\].measured_ms is 'slow', expected",
        ),
        (lambda values: values.update(shapes={"shapes": [[1, 1, 1]], "weights": [0.0]}), "constant.flops with shape factors"),
        (lambda values: values.update(kind="constant+depth+flops × shape"), "'ms_per_block' is missing"),
        (lambda values: values.update(device=3), "damaged"),
    ],
)
def test_a_damaged_file_gives_one_clear_line(
    tmp_path: Path, damage: str | Callable[[dict[str, object]], object], message: str
) -> None:
    """`damage` is what the file holds, or what is done to a whole one."""
    if not isinstance(damage, str):
        values = fitted(lambda index, flops: 0.2 + 50 * flops / 1e9).to_dict()
        damage(values)
        damage = json.dumps(values)
    (tmp_path / "table.json").write_text(damage)
    with pytest.raises(CheckpointError, match=message) as raised:
        LatencyTable.load(tmp_path / "table.json")
    assert "table.json" in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(CheckpointError, match="does not exist"):
        LatencyTable.load(tmp_path / "absent.json")


def test_prediction_refuses_what_was_not_covered() -> None:
    table = fitted(lambda index, flops: 0.2 + 50 * flops / 1e9)
    with pytest.raises(MeasurementError, match=r"cannot predict: architecture .* is not in space 'micro': embed_dim 99"):
        table.predict(Architecture(embed_dim=99, num_heads=(2,) * 3, mlp_ratio=(1.0,) * 3))
    inner = replace(table, networks=tuple(sorted(table.networks, key=lambda network: network.flops)[1:-1]))
    assert inner.predict(MICRO.middle) == table.predict(MICRO.middle)
    with pytest.raises(MeasurementError, match="the latency table measured"):
        inner.predict(MICRO.largest)
    with pytest.raises(MeasurementError, match="the latency table measured"):
        inner.predict(MICRO.smallest)


def test_latency_that_does_not_grow_with_flops_is_refused() -> None:
    with pytest.raises(MeasurementError, match="does not grow with FLOPs"):
        fitted(lambda index, flops: 2 - 50 * flops / 1e9)


def test_fit_wants_four_different_networks_with_positive_times() -> None:
    architectures = designed_architectures(MICRO, 4)
    for measured in (
        [(architecture, 1.0) for architecture in architectures[:3]],
        [(architectures[0], 1.0)] * 5,
        [(architecture, 0.0) for architecture in architectures],
    ):
        with pytest.raises(MeasurementError):
            LatencyTable.fit(MICRO, MEANING, measured, device=FACTS)


def test_table_costs_are_exact_counts_with_predicted_latency() -> None:
    table = fitted(lambda index, flops: 0.2 + 50 * flops / 1e9)
    costs = TableCosts(MICRO, table)
    assert costs.measurement_conditions == MEANING
    assert costs(MICRO.middle) == Cost(
        params=count_params(MICRO.middle, MICRO),
        flops=count_flops(MICRO.middle, MICRO),
        latency_ms=table.predict(MICRO.middle),
    )
    with pytest.raises(BudgetError, match=r"max_latency_ms=0\.1 ms \(p50, batch 1, fp32, torch-cpu, Test CPU\) cannot be met"):
        check_feasible(Budget(max_latency_ms=0.1), MICRO, costs)


def test_a_table_of_another_space_is_refused() -> None:
    table = fitted(lambda index, flops: 0.2 + 50 * flops / 1e9)
    with pytest.raises(MeasurementError, match="another space: num_classes is 10 there and 7 here"):
        TableCosts(replace(MICRO, num_classes=7), table)


@pytest.mark.slow
@pytest.mark.serial
def test_torch_networks_are_measured_into_a_table_and_random_numbers_stay() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    steps: list[str] = []
    how = TableConfig(backend="torch-cpu", networks=4, threads=1, config=QUICK)
    table = measure_table(WIDE, how, progress=lambda work, *_: steps.append(work))
    assert torch.equal(torch.rand(3), expected)
    assert table.measurement_conditions.backend == "torch-cpu"
    assert table.measurement_conditions.device == f"{DeviceFacts.collect().short_name}, 1 thread"
    assert len(table.networks) == 4
    assert table.predict(WIDE.largest) > table.predict(WIDE.smallest) > 0
    assert steps[0] == "open networks"  # of torch, which are not exported
    assert steps[-1].startswith("measure latency")


class CountingExporter:
    """Writes a graph with a cost that follows the number of weights, instead of the network's own."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def __call__(self, network: nn.Module, path: Path) -> None:
        assert not network.training
        side = sum(parameter.numel() for parameter in network.parameters())  # milliseconds, so that the largest is surely slower
        path.write_bytes(graph(["batch", side, 4, 4]))
        self.paths.append(path)


@pytest.mark.slow
@pytest.mark.serial
def test_exported_graphs_are_kept_and_used_again(tmp_path: Path) -> None:
    exporter = CountingExporter()
    how = TableConfig(networks=4, threads=1, config=QUICK)
    table = measure_table(MICRO, how, exporter=exporter, folder=tmp_path)
    assert len(set(exporter.paths)) == 4
    assert table.measurement_conditions.backend == "onnxruntime-cpu"
    measure_table(MICRO, how, exporter=exporter, folder=tmp_path)
    assert len(exporter.paths) == 4  # nothing was exported again
    exporter.paths[0].unlink()
    measure_table(MICRO, how, exporter=exporter, folder=tmp_path)
    assert exporter.paths[4:] == exporter.paths[:1]
    measure_table(replace(MICRO, num_classes=9), how, exporter=exporter, folder=tmp_path)
    assert len(exporter.paths) == 9  # another space shares nothing


@pytest.mark.slow
@pytest.mark.serial
def test_a_table_is_measured_through_the_real_export(tmp_path: Path) -> None:
    table = measure_table(WIDE, TableConfig(networks=4, threads=1, config=QUICK), folder=tmp_path)
    assert len(list(tmp_path.glob("*.onnx"))) == 4
    assert table.predict(WIDE.largest) > table.predict(WIDE.smallest) > 0


def test_unknown_backends_and_precisions_are_refused() -> None:
    with pytest.raises(MeasurementError, match="no table for backend 'abacus'; known are onnxruntime-cpu"):
        TableConfig(backend="abacus")
    with pytest.raises(MeasurementError, match="asked for 'int8'"):
        TableConfig(precision="int8")


def test_a_table_of_networks_that_are_not_in_its_space_is_refused() -> None:
    table = fitted_by_network(lambda index, a: 0.2 + 50 * count_flops(a, MICRO) / 1e9)
    stranger = replace(table.networks[0].architecture, embed_dim=40)
    with pytest.raises(ValueError, match=f"{stranger.slug} is not in space 'micro'"):
        replace(table, networks=(replace(table.networks[0], architecture=stranger), *table.networks[1:]))
