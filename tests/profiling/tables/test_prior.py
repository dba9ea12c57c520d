"""What is known before anything is measured, and how it weighs cross-validation errors."""

from __future__ import annotations

import numpy as np
import pytest

from autoformer.profiling.tables.design import designed_architectures
from autoformer.profiling.tables.formulas import Fit, fits_of, kept_of
from autoformer.profiling.tables.prior import NOISE, cross_validation_variances, prior_covariance
from autoformer.space import SearchSpace

EDGE = SearchSpace.preset("edge")
NETWORKS = designed_architectures(EDGE, 16)


def test_the_variance_of_a_left_out_network_is_that_of_a_regression_on_all_others() -> None:
    covariance = prior_covariance(NETWORKS, EDGE)
    expected = []
    for index in range(len(NETWORKS)):
        others = [other for other in range(len(NETWORKS)) if other != index]
        known = covariance[np.ix_(others, others)] + NOISE**2 * np.eye(len(others))
        told = covariance[index, others] @ np.linalg.solve(known, covariance[others, index])
        expected.append(covariance[index, index] + NOISE**2 - told)
    assert cross_validation_variances(NETWORKS, EDGE) == pytest.approx(np.array(expected), rel=1e-6)


def test_the_same_network_twice_is_predicted_as_well_as_it_is_measured() -> None:
    network = EDGE.middle
    once, again = cross_validation_variances([network, network], EDGE)
    assert once == pytest.approx(again)
    assert once == pytest.approx(2 * NOISE**2, rel=0.01)  # of the one that is left out, and of the other


def test_the_ends_of_a_space_count_less_than_networks_among_others() -> None:
    fit = next(iter(fits_of(NETWORKS, EDGE, np.linspace(1, 20, len(NETWORKS))).values()))
    assert fit.weights.sum() == pytest.approx(1)
    assert max(fit.weights[0], fit.weights[-1]) < np.median(fit.weights) / 2  # the smallest and the largest


def fit_with(errors: list[float], weights: list[float]) -> Fit:
    times = np.ones(len(errors))
    return Fit("constant+flops", (1.0, 1.0), times, times, times + np.array(errors), np.array(weights))


def test_an_error_in_a_corner_does_not_outweigh_smaller_ones_everywhere_else() -> None:
    weights = [0.02] + [0.98 / 7] * 7
    plain = fit_with([0.02] * 8, weights)
    rich = fit_with([0.10] + [0.012] * 7, weights)  # on plain average 2.3 %, more than 2 %
    assert kept_of({"plain": plain, "rich": rich}) is rich
    alike = [1 / 8] * 8
    plain, rich = fit_with([0.02] * 8, alike), fit_with([0.10] + [0.012] * 7, alike)
    assert kept_of({"plain": plain, "rich": rich}) is plain


def test_a_richer_formula_is_not_kept_for_less_than_chance() -> None:
    equal = [1 / 8] * 8
    plain = fit_with([0.02] * 8, equal)
    assert kept_of({"plain": plain, "rich": fit_with([0.0196] * 8, equal)}) is plain  # 0.04 points
    scattered = fit_with([0.001, 0.037] * 3 + [0.001, 0.039], equal)  # 0.1 points of 1.9
    assert kept_of({"plain": plain, "rich": scattered}) is plain
    assert kept_of({"plain": plain, "rich": fit_with([0.015] * 8, equal)}).left_out[0] == pytest.approx(1.015)
