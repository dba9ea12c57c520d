"""The smooth factor of width, depth and image size on a latency table's formula."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoformer.architecture import Architecture
from autoformer.conditions import MeasurementConditions
from autoformer.cost import count_flops
from autoformer.errors import CheckpointError
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.tables.formulas import SHAPED, fits_of
from autoformer.profiling.tables.loads import features
from autoformer.profiling.tables.prior import LENGTH, NOISE, SPREAD, ShapeFactors
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import SearchSpace

EDGE = SearchSpace.preset("edge")
MEANING = MeasurementConditions(
    statistic="p50", batch=1, precision="fp32", backend="onnxruntime-cpu", device="a processor, 2 cores, 1 thread"
)
FACTS = replace(DeviceFacts.collect(), gpus=())


def test_one_measured_shape_is_believed_as_far_as_its_noise_lets_and_says_nothing_of_far_ones() -> None:
    found = ShapeFactors.fitted([(256, 10, 224)], [1.1])
    believed = SPREAD**2 / (SPREAD**2 + NOISE**2)
    assert found((256, 10, 224)) == pytest.approx(1.1**believed, rel=1e-12)
    apart = math.log(2) ** 2  # half the width, in e-folds
    assert found((128, 10, 224)) == pytest.approx(1.1 ** (believed * math.exp(-apart / (2 * LENGTH**2))), rel=1e-12)
    quarter = 4 * apart  # of the tokens
    assert found((256, 10, 112)) == pytest.approx(1.1 ** (believed * math.exp(-quarter / (2 * LENGTH**2))), rel=1e-12)
    assert found((16, 1, 32)) == pytest.approx(1, abs=1e-3)


def test_two_measurements_of_one_shape_halve_the_noises_variance() -> None:
    found = ShapeFactors.fitted([(256, 10, 224)] * 2, [1.1, 1.1])
    assert found((256, 10, 224)) == pytest.approx(1.1 ** (SPREAD**2 / (SPREAD**2 + NOISE**2 / 2)), rel=1e-12)


def truth(network: Architecture) -> float:
    """Loads at prices of a processor's core, wide and shallow networks running better than these say."""
    loads = features(("channels", "weights", "flops"), [network], EDGE)[0]
    better = (network.embed_dim / 256) ** -0.12 * (network.depth / 10) ** 0.12
    return float(better * (0.5 * loads[0] + 0.2 * loads[1] + 14 * loads[2]))


def table_of(count: int) -> tuple[LatencyTable, list[Architecture]]:
    rng = random.Random(3)
    drawn = list({EDGE.sample(rng): None for _ in range(count + 40)})
    seen = [EDGE.smallest, EDGE.largest, *drawn[: count - 2]]
    measured = [(network, truth(network)) for network in seen]
    return LatencyTable.fit(EDGE, MEANING, measured, device=FACTS), drawn[count - 2 :]


def test_what_runs_better_by_width_and_depth_is_learnt_where_prices_alone_do_not_tell() -> None:
    table, others = table_of(20)
    assert table.kind.endswith(SHAPED)
    seen = [network.architecture for network in table.networks]
    fit = fits_of(seen, EDGE, np.array([network.measured_ms for network in table.networks]))[table.kind]
    assert fit.predict(others, EDGE) == pytest.approx([table.predict(network) for network in others], rel=1e-12)
    wrong = [abs(table.predict(network) / truth(network) - 1) for network in others]
    plain = table.compared[table.kind.removesuffix(SHAPED)]
    assert sum(wrong) / len(wrong) < 0.01 < plain.mape
    assert table.cross_validation_mape < plain.mape / 2
    assert "by width, depth and image size" in table.model


def test_latency_stays_linear_in_heads_and_hidden_channels_under_a_factor() -> None:
    table, others = table_of(20)
    for network in others[:5]:
        size = EDGE.image_size_of(network)
        base, per_head, per_hidden = table.latency_terms(network.embed_dim, network.depth, size)
        by_hand = base + per_head * sum(network.num_heads) + per_hidden * sum(network.hidden_dims)
        assert table.predict(network) == pytest.approx(by_hand, rel=1e-12)
        assert table.predict(network) == table.time_of(network, count_flops(network, EDGE))


def test_a_table_with_factors_survives_its_file_and_damaged_factors_are_refused(tmp_path: Path) -> None:
    table, others = table_of(20)
    table.save(tmp_path / "table.json")
    read = LatencyTable.load(tmp_path / "table.json")
    assert read == table
    assert read.predict(others[0]) == table.predict(others[0])
    whole = json.loads((tmp_path / "table.json").read_text())
    damages: tuple[Any, ...] = (
        None,
        {"shapes": [], "weights": []},
        {**whole["shapes"], "weights": whole["shapes"]["weights"][1:]},
        {**whole["shapes"], "weights": [1e6] * len(whole["shapes"]["weights"])},
        {**whole["shapes"], "weights": ["much"] * len(whole["shapes"]["weights"])},
        {**whole["shapes"], "shapes": [[0, 1, 1]] * len(whole["shapes"]["shapes"])},
    )
    for damage in damages:
        (tmp_path / "damaged.json").write_text(json.dumps({**whole, "shapes": damage}))
        with pytest.raises(CheckpointError, match="damaged"):
            LatencyTable.load(tmp_path / "damaged.json")
