"""Finished evaluations as trials of Optuna: what its importances, its plots and optuna-dashboard find there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import Budget, Cost, ExactCosts
from autoformer.drawing.budgeted import Candidates
from autoformer.metric import score
from autoformer.search.candidate import Candidate
from autoformer.search.config import SearchConfig
from autoformer.search.database import Study
from autoformer.search.loop import search
from autoformer.search.trials import trial_of
from autoformer.space import SearchSpace
from tests.support.asking_spaces import CONVOLUTIONS

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SPACE = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
LABELS = np.arange(400) % 10
SHORT = SearchConfig(population=10, generations=4, parents=4, mutated=5, crossed=5, rungs=(1,), confirmation=0)


def by_width(architecture: Architecture, images: slice = slice(None)) -> NDArray[np.int64]:
    """The wider the network and the more heads its first block has, the better; nothing else matters."""
    good = 0.3 + 0.4 * architecture.embed_dim / SPACE.embed_dims[-1] + 0.01 * architecture.num_heads[0]
    return np.where(np.arange(len(LABELS)) < good * len(LABELS), LABELS, (LABELS + 1) % 10)[images]


def candidate(architecture: Architecture, cost: Cost) -> Candidate:
    right = np.array([1, 2, 3])
    return Candidate(
        number=4, generation=2, architecture=architecture, cost=cost, predictions=right, score=score(right, np.array([1, 2, 4]))
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    candidates, drawn = Candidates(SPACE, ExactCosts(SPACE), Budget()), SHORT.model_copy(update={"method": "random"})
    search(candidates, by_width, LABELS, drawn, Study.in_folder(folder, "s"), seed=1)
    return folder / "study.db"


def test_a_trial_has_the_choices_as_parameters_and_the_costs_as_attributes() -> None:
    architecture = Architecture(
        embed_dim=24, num_heads=(1, 2, 1), mlp_ratio=(2.0, 1.0, 1.0), image_size=16, patch_size=2, stem_depth=2,
        mlp_kernel=(0, 3, 5), pool_after=1,
    )  # fmt: skip
    CONVOLUTIONS.check(architecture)
    trial = trial_of(candidate(architecture, Cost(params=11, flops=22, latency_ms=0.5)), CONVOLUTIONS, "s")
    assert trial.params == {
        "embed_dim": 24, "depth": 3, "image_size": 16, "patch_size": 2, "stem_depth": 2, "pool_after": 1,
        "num_heads_0": 1, "num_heads_1": 2, "num_heads_2": 1, "mlp_ratio_0": 2.0, "mlp_ratio_1": 1.0, "mlp_ratio_2": 1.0,
        "mlp_kernel_0": 0, "mlp_kernel_1": 3, "mlp_kernel_2": 5,
    }  # fmt: skip
    assert trial.distributions["depth"] == optuna.distributions.CategoricalDistribution((3, 4))
    assert trial.distributions["patch_size"] == optuna.distributions.CategoricalDistribution((2, 4))
    assert trial.value == pytest.approx(2 / 3)
    del trial.user_attrs["candidate"]
    assert trial.user_attrs == {"params": 11, "flops": 22, "latency_ms": 0.5, "images": 3, "generation": 2}


def test_a_choice_that_the_space_leaves_open_to_nobody_is_no_parameter_and_a_cost_that_is_not_known_no_attribute() -> None:
    narrow = replace(SPACE, embed_dims=SPACE.embed_dims[:1], depths=(2,))
    trial = trial_of(candidate(narrow.smallest, Cost(params=1, flops=1)), narrow, "s")
    assert set(trial.params) == {"num_heads_0", "num_heads_1", "mlp_ratio_0", "mlp_ratio_1"}
    assert "latency_ms" not in trial.user_attrs


def test_a_size_that_a_space_holds_without_listing_it_is_left_out() -> None:
    wide = replace(SPACE, any_up_to_largest=True)
    other = replace(wide.smallest, embed_dim=wide.smallest.embed_dim + 1)
    wide.check(other)
    trial = trial_of(candidate(other, Cost(params=1, flops=1)), wide, "s")
    assert "embed_dim" not in trial.params
    assert trial.params["depth"] == other.depth


def test_every_trial_of_a_finished_search_holds_the_choices_of_its_stored_candidate(finished: Path) -> None:
    study = Study(finished, "s")
    stored = {one.number: one for one in study.evaluations().values()}
    trials = study.study.get_trials()
    assert len(trials) == len(stored) > 40
    for trial, one in zip(trials, (stored[number] for number in sorted(stored)), strict=True):
        network = one.architecture
        assert trial.params["embed_dim"] == network.embed_dim
        assert trial.params["depth"] == network.depth
        assert [trial.params.get(f"num_heads_{block}") for block in range(network.depth)] == list(network.num_heads)
        assert f"num_heads_{network.depth}" not in trial.params
        assert (trial.user_attrs["params"], trial.user_attrs["flops"]) == (one.cost.params, one.cost.flops)


def test_optunas_importances_and_parallel_plot_read_a_finished_search(finished: Path) -> None:
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{finished}")
    importances = optuna.importance.get_param_importances(study)
    assert next(iter(importances)) == "embed_dim"
    whole = optuna.importance.FanovaImportanceEvaluator(seed=0, n_trees=8)  # asks for what every trial has
    assert next(iter(optuna.importance.get_param_importances(study, evaluator=whole))) == "embed_dim"
    drawn = optuna.visualization.plot_parallel_coordinate(study)
    assert len(drawn.data) > 0
    assert all(name in drawn.to_json() for name in ("embed_dim", "depth", "num_heads_0", "mlp_ratio_1"))


def test_a_study_from_before_trials_had_parameters_is_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    candidates = Candidates(SPACE, ExactCosts(SPACE), Budget())
    expected = search(candidates, by_width, LABELS, SHORT, Study(None, "s"), seed=1)
    old = Study(file, "s")
    for one in expected.candidates[:25]:
        old.add(one)  # without its space: as before
    found = search(candidates, by_width, LABELS, SHORT, Study(file, "s"), seed=1)
    assert found.to_dict() == expected.to_dict()
    trials = Study(file, "s").study.get_trials()
    assert [bool(trial.params) for trial in trials] == [False] * 25 + [True] * (len(trials) - 25)
    assert optuna.importance.get_param_importances(optuna.load_study(study_name="s", storage=f"sqlite:///{file}"))
