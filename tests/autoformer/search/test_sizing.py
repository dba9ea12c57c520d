"""How many candidates a search takes where nobody says: as many as its images can tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoformer.cost import Budget, ExactCosts
from autoformer.drawing.budgeted import Candidates
from autoformer.search.config import SearchConfig
from autoformer.search.database import Study
from autoformer.search.loop import search
from autoformer.search.record import SearchRecord
from autoformer.search.sizing import SearchPlan
from autoformer.space import SearchSpace
from tests.support.commands import command
from tests.support.searches import supernet

__all__ = ["supernet"]  # fixtures


def plan(images: int, **settings: object) -> SearchPlan:
    return SearchPlan.of(images, SearchConfig.model_validate({"confirmation": 0, **settings}))


@pytest.mark.parametrize(
    ("images", "population", "generations"),
    [
        (360, 50, 2),  # a hundred: 90 would be one for every 4 images
        (360, 24, 5),  # 120, the first multiple of 24 from 100 on
        (2000, 50, 10),
        (2002, 50, 11),  # 500.5 candidates
        (4000, 50, 20),  # the paper's thousand
        (50_000, 50, 20),
        (360, 500, 2),  # one generation would be a random draw and no search
        (1, 50, 2),
    ],
)
def test_a_candidate_for_every_four_images_but_never_under_100_or_over_1000(
    images: int, population: int, generations: int
) -> None:
    assert plan(images, population=population).config.generations == generations


def test_held_out_images_tell_nothing_of_a_search() -> None:
    """Of 2,500 images the last fifth is held out, so 2,000 decide."""
    assert plan(2500, confirmation=0.2).images == 2000
    assert plan(2500, confirmation=0.2).config == plan(2000).config.model_copy(update={"confirmation": 0.2})


def test_generations_that_were_asked_for_stay() -> None:
    asked = plan(360, population=24, generations=6)
    assert asked.config.generations == 6
    assert str(asked).startswith("24 × 6 = 144 candidates (as set) beside the baselines, decided by 360 images, ")
    assert str(asked).endswith("; usual for so many: 100 candidates")


def test_a_plan_says_what_chance_alone_does_on_its_images() -> None:
    """By hand: 1.96·√(0.15/360) = 0.0400, 1.96·√(0.15/4000) = 0.0120."""
    said = "on which equally good networks may be 4.0 points apart by chance"
    usual = "(one for every 4 images, from 100 to 1,000)"
    assert str(plan(360)) == f"50 × 2 = 100 candidates {usual} beside the baselines, decided by 360 images, {said}"
    assert "may be 1.2 points apart" in str(plan(4000))
    assert str(plan(4000)).startswith("50 × 20 = 1,000 candidates")


@pytest.mark.parametrize("images", [360, 4000])
def test_equally_good_networks_stay_within_what_the_plan_calls_chance_in_95_of_100_cases(images: int) -> None:
    """Drawn: one alone is right on 7.5 % of the images, the other alone on 7.5 %."""
    drawn = np.random.default_rng(0).multinomial(images, [0.075, 0.075, 0.85], size=40_000)
    within = np.abs(drawn[:, 0] - drawn[:, 1]) / images <= plan(images).chance
    assert within.mean() == pytest.approx(0.95, abs=0.006)


def test_a_search_without_a_number_of_generations_takes_the_planned_one() -> None:
    space = SearchSpace.preset("micro", image_size=8, in_chans=1, num_classes=10)
    labels = np.arange(40) % 10
    config = SearchConfig(population=60, parents=4, mutated=30, crossed=30)
    candidates = Candidates(space, ExactCosts(space), Budget())
    result = search(candidates, lambda network, images: labels[images], labels, config, Study(None, "s"))
    assert result.searched == 120


SMALL = ("--set", "population=55", "--set", "uniform_shapes=1", "--set", "finalists=2", "--max-flops", "70%", "--quiet")


@pytest.mark.slow
def test_the_plan_is_printed_first_and_the_record_holds_its_number(supernet: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    answer = command("search", "--supernet", supernet, "--out", out, *SMALL)
    assert answer.code == 0, answer.err
    # 269 search images of the digits, of which 54 are held out; 1.96·√(0.15/215) = 0.0518
    assert (
        "55 × 2 = 110 candidates (one for every 4 images, from 100 to 1,000) beside the baselines, decided by 215 images,"
        in answer.out
    )
    assert answer.out.index("be 5.2 points apart") < answer.out.index("chosen")
    record = SearchRecord.load(out)
    assert (record.config.generations, record.result.searched) == (2, 110)
    found = record.result
    assert len(found.tied) > 10
    last = (found.tied[0], found.tied[-1], found.best, *found.baselines.values())  # not the second cheapest
    assert set(found.held_out_scores) == {candidate.number for candidate in last}
    same = command("search", "--supernet", supernet, "--out", out, *SMALL, "--set", "generations=2")
    assert same.code == 0, same.err  # what was written is the number, so saying it is the same search
    assert "55 × 2 = 110 candidates (as set) beside" in same.out
    other = command("search", "--supernet", supernet, "--out", out, *SMALL, "--set", "generations=3")
    assert other.code != 0
    answered = command("search", "--from", out, "--max-flops", "65%", "--json")
    assert answered.code == 0, answered.err
    assert answered.json["config"]["generations"] == 2
