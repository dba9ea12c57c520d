"""Large networks first: which networks a step may draw while small ones are let in."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoformer.architecture import Architecture
from autoformer.cost import count_flops, count_params
from autoformer.data.parts import DataParts
from autoformer.space import SearchSpace
from autoformer.tensors import read_tensors, tensors_digest
from autoformer.training.choosing import Choose, chooser, parameter_strata
from autoformer.training.config import SubnetsConfig, SupernetConfig
from autoformer.training.curriculum import chooser_over
from autoformer.training.runs import train_supernet
from tests.support.small_spaces import NAMES, shrunk
from tests.support.trainings import QUICK, SPACE, dying_at

STRATEGIES = ("uniform", "sandwich", "stratified", "preferred")
EDGE = SearchSpace.preset("edge")


def drawn(choose: Choose, step: int) -> list[Architecture]:
    """The networks of a step."""
    return [one for one in choose(step) if one is not None]


def config_of(strategy: str, space: SearchSpace, curriculum: float | None) -> SubnetsConfig:
    listed = [one.to_dict() for one in (space.smallest, space.middle, space.largest)] if strategy == "preferred" else []
    return SubnetsConfig.model_validate({"strategy": strategy, "preferred": listed, "curriculum": curriculum})


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("curriculum", [None, 0])
def test_without_a_curriculum_every_step_draws_what_it_always_drew(strategy: str, curriculum: float | None) -> None:
    config = config_of(strategy, SPACE, curriculum)
    eased, plain = chooser_over(config, SPACE, 3, 300), chooser(config, SPACE, 3)
    assert [eased(step) for step in range(300)] == [plain(step) for step in range(300)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_after_the_curriculum_every_step_draws_what_it_would_without(strategy: str) -> None:
    eased = chooser_over(config_of(strategy, SPACE, 0.5), SPACE, 3, 300)
    plain = chooser(config_of(strategy, SPACE, None), SPACE, 3)
    assert [eased(step) for step in range(150, 300)] == [plain(step) for step in range(150, 300)]
    assert [eased(step) for step in range(150)] != [plain(step) for step in range(150)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", NAMES)
def test_it_begins_with_the_largest_network_and_the_least_flops_fall_evenly(strategy: str, name: str) -> None:
    """At share p of the curriculum no network has fewer FLOPs than largest - p (largest - smallest), but for one listed alone."""
    space = shrunk(name)
    steps = 640
    choose = chooser_over(config_of(strategy, space, 1.0), space, 0, steps)
    largest, smallest = (count_flops(one, space) for one in (space.largest, space.smallest))
    assert all(count_flops(one, space) == largest for one in drawn(choose, 0))
    for step in range(0, steps, 7):
        for one in drawn(choose, step):
            space.check(one)
            bound = largest - (largest - smallest) * step / steps
            assert count_flops(one, space) >= bound - 1e-9 * largest or strategy == "preferred"


def test_small_networks_come_in_one_after_the_other() -> None:
    """Of the space `edge`: the smallest FLOPs drawn in a tenth of the curriculum fall from one tenth to the next but one."""
    choose = chooser_over(SubnetsConfig(curriculum=1.0), EDGE, 0, 1000)
    least = [
        min(count_flops(drawn(choose, step)[0], EDGE) for step in range(start, start + 100)) for start in range(0, 1000, 100)
    ]
    assert least[0] > 0.85 * count_flops(EDGE.largest, EDGE)
    assert least[0] > least[2] > least[4] > least[6] > least[8]


def test_a_sandwich_trains_as_many_networks_as_ever_the_largest_first() -> None:
    choose = chooser_over(SubnetsConfig(strategy="sandwich", between=3, curriculum=0.5), SPACE, 0, 100)
    assert all(len(choose(step)) == 5 and choose(step)[0] == SPACE.largest for step in range(100))
    assert SPACE.smallest not in {one for step in range(25) for one in choose(step)}
    assert all(choose(step)[1] == SPACE.smallest for step in range(50, 100))


def test_of_listed_networks_the_most_expensive_comes_first() -> None:
    choose = chooser_over(config_of("preferred", EDGE, 1.0), EDGE, 0, 300)
    assert {choose(step)[0] for step in range(30)} == {EDGE.largest}
    assert {choose(step)[0] for step in range(290, 300)} <= {EDGE.largest, EDGE.middle}
    assert EDGE.middle in {choose(step)[0] for step in range(200, 300)}


def test_ranges_of_parameters_keep_their_share_above_the_floor() -> None:
    """Of three ranges of parameters the upper two are drawn half of the time each where the floor leaves just these."""
    space = EDGE
    config = SubnetsConfig(strategy="stratified", strata=3, curriculum=1.0)
    choose, steps = chooser_over(config, space, 0, 3200), range(1600, 2000)
    limits = parameter_strata(space, 3)
    params = [count_params(drawn(choose, step)[0], space) for step in steps]
    top = sum(value >= (limits[-1].min_params or 0) for value in params) / len(params)
    assert 0.25 < top < 0.65


def test_a_space_of_one_network_has_nothing_to_let_in() -> None:
    one = SearchSpace.of_one(SPACE.largest, SPACE.geometry_of(SPACE.largest))
    assert chooser_over(SubnetsConfig(curriculum=0.5), one, 0, 10)(0) == (one.largest,)


@pytest.mark.parametrize("fatal_step", [4, 20])
def test_a_training_with_a_curriculum_that_died_ends_with_the_weights_of_an_undisturbed_one(
    parts: DataParts, tmp_path: Path, fatal_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = QUICK.model_copy(update={"subnets": SubnetsConfig(curriculum=0.5), "save_minutes": 1e-6})
    train_supernet(SPACE, parts, QUICK, tmp_path / "without")
    train_supernet(SPACE, parts, config, tmp_path / "whole")
    with dying_at(fatal_step, monkeypatch):
        train_supernet(SPACE, parts, config, tmp_path / "died")
    train_supernet(SPACE, parts, config, tmp_path / "died")
    without, whole, died = (
        tensors_digest(read_tensors(tmp_path / name / "model.safetensors")) for name in ("without", "whole", "died")
    )
    assert whole == died != without


def test_a_config_without_a_curriculum_is_written_as_before_there_was_one() -> None:
    assert "curriculum" not in SubnetsConfig().model_dump()
    assert "curriculum" not in SupernetConfig().identity["subnets"]
    assert SubnetsConfig(curriculum=0).model_dump()["curriculum"] == 0
