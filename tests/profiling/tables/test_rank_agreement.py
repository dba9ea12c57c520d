"""Orders of networks: tau by hand, near pairs, and what noise leaves of it."""

from __future__ import annotations

import math
import random

import pytest
from scipy.stats import kendalltau, norm

from autoformer.profiling.tables.errors import rank_agreement, standard_error


def test_tau_over_all_pairs_is_scipys() -> None:
    rng = random.Random(0)
    measured = [rng.uniform(1, 2) for _ in range(30)]
    predicted = [time_ms * rng.uniform(0.8, 1.2) for time_ms in measured]
    found = rank_agreement(measured, predicted)
    assert found.pairs == 30 * 29 // 2
    assert found.tau == pytest.approx(kendalltau(measured, predicted).statistic, abs=1e-12)
    assert found.ceiling is None


def test_near_pairs_are_those_within_the_share_of_each_other() -> None:
    measured, predicted = [1.0, 1.05, 1.04, 2.0], [1.0, 1.02, 1.03, 0.5]  # near: three pairs, one in the wrong order
    near = rank_agreement(measured, predicted, within=0.05)
    assert near.pairs == 3
    assert near.tau == pytest.approx((2 - 1) / 3)
    assert rank_agreement([1.0, 2.0], [1.0, 2.0], within=0.05).tau is None
    assert "no such pairs" in str(rank_agreement([1.0, 2.0], [1.0, 2.0], within=0.05))


def test_a_tie_among_predictions_counts_neither_way() -> None:
    assert rank_agreement([1.0, 2.0, 3.0], [1.0, 1.0, 2.0]).tau == pytest.approx(2 / 3)


def test_the_ceiling_of_one_pair_is_the_certainty_of_its_order() -> None:
    error = 0.01
    found = rank_agreement([1.0, 1.02], [1.0, 1.1], [error, error])
    assert found.ceiling == pytest.approx(2 * norm.cdf(math.log(1.02) / (error * math.sqrt(2))) - 1)
    assert rank_agreement([1.0, 1.02], [1.0, 1.1], [0.0, 0.0]).ceiling == 1


def test_a_perfect_model_reaches_the_ceiling_and_no_more() -> None:
    rng = random.Random(1)
    true = [math.exp(rng.uniform(0, 0.3)) for _ in range(400)]
    error = 0.03
    measured = [time_ms * math.exp(rng.gauss(0, error)) for time_ms in true]
    found = rank_agreement(measured, true, [error] * len(true))
    assert found.tau is not None
    assert found.ceiling is not None
    assert found.tau == pytest.approx(found.ceiling, abs=0.05)
    assert found.ceiling < 0.9


def test_a_standard_error_is_that_of_a_normal_interval() -> None:
    assert standard_error(math.exp(-0.0196), math.exp(0.0196)) == pytest.approx(0.01, rel=1e-3)
