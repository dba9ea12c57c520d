"""Kendall's tau of scores before and after training, against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from autoformer.profiling.race.agreement import Agreement
from tests.support.scripted_races import LABELS, right_on

BEFORE = (0.40, 0.45, 0.50, 0.55, 0.60)


@pytest.mark.parametrize("after", [(0.5, 0.6, 0.7, 0.8, 0.9), (0.9, 0.8, 0.7, 0.6, 0.5), (0.7, 0.5, 0.8, 0.6, 0.9)])
def test_tau_is_that_of_scipy_and_lies_in_its_interval(after: tuple[float, ...]) -> None:
    found = Agreement.of([right_on(share) for share in BEFORE], [right_on(share) for share in after], LABELS)
    assert found is not None
    assert found.tau == pytest.approx(kendalltau(BEFORE, after).statistic)
    assert -1 <= found.low <= found.tau <= found.high <= 1
    assert found.networks == 5
    assert str(found).startswith(f"{found.tau:+.2f} [")


def test_scores_that_few_images_tell_apart_have_a_wide_interval_and_clear_ones_a_narrow_one() -> None:
    clear = Agreement.of([right_on(s) for s in (0.1, 0.4, 0.9)], [right_on(s) for s in (0.2, 0.5, 0.8)], LABELS)
    rng = np.random.default_rng(0)
    alike = [np.where(rng.random(400) < 0.7, LABELS, (LABELS + 1) % 10) for _ in range(6)]
    unclear = Agreement.of(alike[:3], alike[3:], LABELS)
    assert clear is not None
    assert unclear is not None
    assert (clear.tau, clear.low, clear.high) == (1.0, 1.0, 1.0)
    assert unclear.high - unclear.low > 1


def test_it_is_the_same_every_time() -> None:
    both = [right_on(share) for share in BEFORE], [right_on(share, first=9) for share in BEFORE[::-1]]
    assert Agreement.of(*both, LABELS) == Agreement.of(*both, LABELS)


def test_fewer_than_three_networks_have_no_order_to_agree_on() -> None:
    two = [right_on(0.4), right_on(0.6)]
    assert Agreement.of(two, two, LABELS) is None
    assert Agreement.of([], [], LABELS) is None


@pytest.mark.parametrize("values", [(0.5, 0.6, 0.9, 3), (0.5, -1.1, 0.9, 3), (1.2, 0.5, 1.2, 3), (0.5, 0.4, 0.6, 2)])
def test_an_impossible_agreement_is_refused(values: tuple[float, float, float, int]) -> None:
    tau, low, high, networks = values
    with pytest.raises(ValueError, match="tau"):
        Agreement(tau=tau, low=low, high=high, networks=networks)
