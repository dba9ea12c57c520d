"""Latency tables of a space that asks for more: patches of two sizes, a convolutional stem, kernels in the MLPs, halving."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoformer.architecture import Architecture
from autoformer.cost import LinearLatency, Outline, OutlineLatency, count_flops, count_params
from autoformer.errors import CheckpointError
from autoformer.profiling.tables.correction import CorrectedTable
from autoformer.profiling.tables.costs import TableCosts
from autoformer.profiling.tables.design import choices_of, designed_architectures
from autoformer.profiling.tables.formulas import fits_of, kinds_of
from autoformer.profiling.tables.loads import features, loads_in
from autoformer.profiling.tables.prior import shape_of
from autoformer.profiling.tables.table import LatencyTable
from autoformer.space import SearchSpace
from tests.support.latency_loops import timing
from tests.support.measurements import FACTS
from tests.support.small_spaces import designed
from tests.support.tables import MEANING, MICRO, fitted

ASKING = SearchSpace(
    name="asking",
    embed_dims=(96, 128, 160, 192),
    depths=(6, 8, 10),
    num_heads=(2, 3, 4),
    mlp_ratios=(2.0, 3.0, 4.0),
    image_sizes=(64, 96, 128),
    head_dim=32,
    patch_size=16,
    num_classes=100,
    patch_sizes=(8, 16),
    stem="conv",
    stem_dim=24,
    stem_depths=(0, 1, 2),
    mlp_kernels=(0, 3, 5),
    pool_after=(0, 2, 4),
    class_token=False,
)
EIGHT = ("constant", "depth", "attention", "hidden", "residual", "channels", "weights", "flops")
ONE = Architecture(
    embed_dim=96,
    num_heads=(2, 3, 4),
    mlp_ratio=(2.0, 3.0, 4.0),  # 192, 288, 384 hidden channels
    image_size=64,
    patch_size=16,
    stem_depth=2,
    mlp_kernel=(3, 0, 5),
    pool_after=1,  # 16 patches in the first block, 4 in the others
)


def test_each_load_counts_the_tokens_that_its_block_sees() -> None:
    by_hand = {
        "constant": 1,
        "depth": 3,
        "attention": (2 * 16**2 + 3 * 4**2 + 4 * 4**2) / 1e6,
        "hidden": (192 * 16 + 288 * 4 + 384 * 4) / 1e6,
        "residual": 96 * (16 + 4 + 4) / 1e6,
        "channels": 32 * (2 * 16 + 3 * 4 + 4 * 4) / 1e6,
        "weights": count_params(ONE, ASKING) / 1e6,
        "flops": count_flops(ONE, ASKING) / 1e9,
        "local blocks": 2,
        "local": (192 * 16 + 384 * 4) / 1e6,
        "local flops": (9 * 192 * 16 + 25 * 384 * 4) / 1e9,
        # Four convolutions of stride 2 on 64 px, two more of 4 × 4 patches, and the one to the width.
        "stem": (32**2 * 27 * 24 + (16**2 + 8**2 + 3 * 4**2) * 9 * 24 * 24 + 4**2 * 24 * 96) / 1e9,
    }
    assert loads_in(ASKING) == tuple(by_hand)
    assert features(tuple(by_hand), [ONE], ASKING)[0] == pytest.approx(list(by_hand.values()), rel=1e-12)


def test_a_class_token_is_a_token_of_every_block_and_no_patch() -> None:
    token = replace(ASKING, class_token=True)
    found = dict(zip(loads_in(token), features(loads_in(token), [ONE], token)[0], strict=True))
    assert found["attention"] == pytest.approx((2 * 17**2 + 3 * 5**2 + 4 * 5**2) / 1e6, rel=1e-12)
    assert found["hidden"] == pytest.approx((192 * 17 + 288 * 5 + 384 * 5) / 1e6, rel=1e-12)
    assert found["local"] == pytest.approx((192 * 16 + 384 * 4) / 1e6, rel=1e-12)


def test_spaces_have_the_loads_and_formulas_that_they_ask_for() -> None:
    edge = SearchSpace.preset("edge")
    assert loads_in(edge) == EIGHT
    assert not [kind for kind in kinds_of(edge) if "local" in kind or "stem" in kind]
    assert loads_in(replace(edge, mlp_kernels=(0, 3))) == (*EIGHT, "local blocks", "local")
    assert loads_in(replace(edge, mlp_kernels=(3, 5))) == (*EIGHT, "local flops")
    assert loads_in(replace(edge, mlp_kernels=(3,))) == EIGHT  # alike in every block: hidden values tell them
    assert loads_in(replace(edge, stem="conv")) == (*EIGHT, "stem")
    assert list(kinds_of(ASKING))[:8] == list(kinds_of(edge))[:8]  # the plain ones stay, before the others
    assert "channels+weights+flops+local+taps+stem × shape" in kinds_of(ASKING)
    assert "channels+weights+flops+local+stem" in kinds_of(ASKING)
    lacking = replace(edge, num_heads=(0, 2, 3))
    assert loads_in(lacking) == (*EIGHT, "attention blocks")
    added = {kind: loads for kind, loads in kinds_of(lacking).items() if kind not in kinds_of(edge)}
    assert set(added) == {
        f"{kind}+attention{shaped}"
        for kind in ("constant+depth+flops", "depth+activations+channels+weights+flops")
        for shaped in ("", " × shape")
    }
    assert all(loads[-1] == "attention blocks" for loads in added.values())


def test_a_block_that_lacks_a_part_is_spared_what_belongs_to_it() -> None:
    """Of blocks with both, without attention, without MLP and with neither, in tokens and channels counted by hand."""
    space = SearchSpace(
        name="lacking", embed_dims=(32,), depths=(4,), num_heads=(0, 2), mlp_ratios=(0, 2), head_dim=8, image_sizes=(16,),
        patch_size=4, relative_position=False,
    )  # fmt: skip
    network = Architecture(embed_dim=32, num_heads=(2, 0, 2, 0), mlp_ratio=(2, 2, 0, 0))
    found = dict(zip(loads_in(space), features(loads_in(space), [network], space)[0], strict=True))
    assert (found["depth"], found["attention blocks"]) == (2, 2)
    assert found["residual"] == pytest.approx(4 * 0.5 * 32 * 17 / 1e6, rel=1e-12)
    assert found["attention"] == pytest.approx(2 * 2 * 17**2 / 1e6, rel=1e-12)
    assert found["channels"] == pytest.approx(2 * 16 * 17 / 1e6, rel=1e-12)
    assert found["hidden"] == pytest.approx(2 * 64 * 17 / 1e6, rel=1e-12)
    assert found["flops"] == pytest.approx(count_flops(network, space) / 1e9, rel=1e-12)


def test_a_shape_counts_patches_as_images_in_patches_of_the_stored_size() -> None:
    network = ASKING.uniform(96, 6, 2, 2.0, 64)  # patches of 8 px, never halved
    assert shape_of(replace(network, patch_size=16), ASKING) == (96, 6, 64)
    assert shape_of(network, ASKING) == (96, 6, 128)
    # 64 patches in two blocks, 16 in four: 32 on average, whose root is 5.657 sides of 16 px.
    assert shape_of(replace(network, pool_after=2), ASKING) == (96, 6, 91)


def test_a_design_shows_every_choice_that_a_space_asks_for() -> None:
    chosen = designed_architectures(ASKING, 12)
    every = set().union(*map(choices_of, chosen))
    assert {("patch", 8), ("patch", 16), ("stem", 0), ("stem", 1), ("stem", 2)} <= every
    assert {("kernel", 0), ("kernel", 3), ("kernel", 5), ("pool", 0), ("pool", 2), ("pool", 4)} <= every
    assert len(every) == 4 + 3 + 3 + 3 + 3 + 2 + 3 + 3 + 3
    assert all(ASKING.contains(one) for one in chosen)


def processor(network: Architecture) -> float:
    """Milliseconds of a device that is slow at depthwise convolutions and at those of the stem, by a walk through the network."""
    side, time_ms = network.image_size or 0, 0.05
    for index in range({8: 3, 16: 4}[network.patch_size or 0]):
        side //= 2
        time_ms += side**2 * 24 * (1 + 0.3 * 9 * (24 if index else 3) / 10) / 1e6
    time_ms += (network.stem_depth or 0) * side**2 * 24 * (1 + 0.3 * 9 * 24 / 10) / 1e6
    for index, (heads, hidden, kernel) in enumerate(
        zip(network.num_heads, network.hidden_dims, network.mlp_kernel or (), strict=True)
    ):
        halved = network.pool_after and index >= network.pool_after
        tokens = (side // 2) ** 2 if halved else side**2
        products = tokens * network.embed_dim * (4 * 32 * heads + 2 * hidden) + 64 * tokens**2 * heads
        time_ms += 0.02 + 14e-9 * products + 1.5e-6 * tokens**2 * heads + 3e-6 * tokens * hidden
        time_ms += 0.01 + 6e-6 * tokens * hidden + 60e-9 * kernel**2 * tokens * hidden if kernel else 0
    return time_ms


def launches(network: Architecture) -> float:
    """Milliseconds of a device that mostly launches kernels: one more for a convolution, little for what they compute."""
    side, depth = (network.image_size or 0) // (network.patch_size or 0), network.stem_depth or 0
    convolved = sum(kernel > 0 for kernel in network.mlp_kernel or ())
    wide = side**2 * network.embed_dim * network.halved_after + side**2 // 4 * network.embed_dim * (
        network.depth - network.halved_after
    )
    stem = 2e-10 * (network.image_size or 0) ** 2 / 4 * 9 * 24 * (3 + 24 / 4 + 24 / 16)
    return 0.1 + stem + 0.005 * depth + 0.08 * network.depth + 0.03 * convolved + 3e-8 * wide


def table_of(device: Callable[[Architecture], float], count: int = 24, noise: float = 0.01) -> LatencyTable:
    scatter = np.exp(np.random.default_rng(3).normal(0, noise, count))
    measured = [(network, device(network) * float(by)) for network, by in zip(designed(ASKING, count), scatter, strict=True)]
    return LatencyTable.fit(ASKING, MEANING, measured, device=FACTS)


@pytest.mark.parametrize("device", [processor, launches])
@pytest.mark.parametrize("count", [12, 24])
def test_thirty_networks_that_were_not_measured_are_predicted_within_three_per_cent(
    device: Callable[[Architecture], float], count: int
) -> None:
    table, rng = table_of(device, count), random.Random(11)
    others = [ASKING.sample(rng) for _ in range(30)]
    truth = np.array([device(network) for network in others])
    wrong = np.abs([table.predict(network) for network in others] / truth - 1).mean()
    assert wrong < 0.03
    measured = [network.architecture for network in table.networks]
    fits = fits_of(measured, ASKING, np.array([network.measured_ms for network in table.networks]))
    plain = [np.abs(fits[kind].predict(others, ASKING) / truth - 1).mean() for kind in kinds_of(MICRO) if kind in fits]
    assert wrong <= min(plain)  # of the formulas that know neither convolutions nor stems, the plainest among them


def test_what_needs_no_more_than_flops_is_said_so() -> None:
    table = table_of(lambda network: 0.2 + 10 * count_flops(network, ASKING) / 1e9)
    assert table.kind == "constant+flops"
    assert table.cross_validation_mape < 0.02


def test_latency_is_linear_in_each_block_of_an_outline() -> None:
    table, rng = table_of(processor), random.Random(12)
    costs = TableCosts(ASKING, table)
    assert isinstance(costs, OutlineLatency)
    for network in (ASKING.smallest, ASKING.largest, *(ASKING.sample(rng) for _ in range(8))):
        terms = costs.outline_latency(Outline.of(network, ASKING))
        by_hand = terms.around
        for index, (heads, hidden, kernel) in enumerate(
            zip(network.num_heads, network.hidden_dims, network.mlp_kernel or (), strict=True)
        ):
            fixed, per_head, per_hidden = terms.blocks[bool(network.pool_after) and index >= (network.pool_after or 0), kernel]
            assert min(fixed, per_head, per_hidden) >= 0
            by_hand += fixed + per_head * heads + per_hidden * hidden
        assert by_hand == pytest.approx(table.predict(network), rel=1e-12)
        assert costs.latency_of(network, count_flops(network, ASKING)) == table.predict(network) == costs(network).latency_ms
    with pytest.raises(AssertionError, match="width, depth and image size do not tell what this space asks for"):
        costs.latency_terms(96, 6, 64)


def test_a_fit_predicts_as_the_table_that_keeps_it() -> None:
    table, rng = table_of(launches), random.Random(13)
    others = [ASKING.sample(rng) for _ in range(10)]
    networks = [network.architecture for network in table.networks]
    fits = fits_of(networks, ASKING, np.array([network.measured_ms for network in table.networks]))
    assert fits[table.kind].predict(others, ASKING) == pytest.approx([table.predict(one) for one in others], rel=1e-9)


def test_a_space_that_asks_for_nothing_has_the_same_terms_in_both_forms() -> None:
    table = fitted(lambda index, flops: 0.2 + (50 + index) * flops / 1e9)
    costs = TableCosts(MICRO, table)
    assert isinstance(costs, LinearLatency)
    place = (MICRO.middle.embed_dim, MICRO.middle.depth, 8)
    outline = Outline.of(MICRO.middle, MICRO)
    assert costs.outline_latency(outline).of_all_blocks(MICRO.middle.depth) == costs.latency_terms(*place)
    assert costs.outline_latency(outline).of(MICRO.middle) == pytest.approx(table.predict(MICRO.middle), rel=1e-12)


def test_networks_without_any_convolution_price_none() -> None:
    bare = [replace(network, mlp_kernel=(0,) * network.depth) for network in designed(ASKING, 12)]
    table = LatencyTable.fit(ASKING, MEANING, [(network, processor(network)) for network in bare], device=FACTS)
    assert not [kind for kind in table.compared if "local" in kind]
    assert table.predict(ASKING.middle) > 0


def test_such_a_table_survives_its_file_and_another_spaces_formula_is_refused(tmp_path: Path) -> None:
    table = table_of(lambda network: launches(network) * (network.embed_dim / 128) ** 0.25)
    assert table.shapes is not None  # the whole form is written
    table.save(tmp_path / "table.json")
    read = LatencyTable.load(tmp_path / "table.json")
    assert read == table
    assert read.predict(ASKING.middle) == table.predict(ASKING.middle)
    assert "ms per block with a depthwise convolution" in read.model
    values = fitted(lambda index, flops: 0.2 + 50 * flops / 1e9).to_dict()
    (tmp_path / "foreign.json").write_text(json.dumps({**values, "kind": table.kind.removesuffix(" × shape")}))
    with pytest.raises(CheckpointError, match=r"kind of model is '.*local.*', known are constant\+flops"):
        LatencyTable.load(tmp_path / "foreign.json")


def test_measured_finalists_of_such_a_space_correct_its_table() -> None:
    table, rng = table_of(processor), random.Random(14)
    finalists = [ASKING.sample(rng) for _ in range(6)]
    corrected = CorrectedTable.by(table, {one: timing(1.2 * processor(one)) for one in finalists})
    assert corrected.correction == "local factor"
    others = [ASKING.sample(rng) for _ in range(20)]
    wrong = np.mean([abs(corrected.predict(one) / (1.2 * processor(one)) - 1) for one in others])
    assert wrong < 0.03
