"""The finalists, who are scored on the held-out images at the end: from all along the tied set, and one that fills the budget.

The search images cannot tell the tied apart, so what is known of them is their cost, and the finalists are spread over that.

A network *fills* the budget when it uses at least 97 % of one of the upper limits. That limit is its tightest, the one that it
uses most of: within 3 % of it nothing grows much further, however much room the other limits leave. The most expensive
network in the budget is nearly always one, but it is the one with the most FLOPs: where params or latency are what binds, it
may leave room, and then another one is found.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from autoformer.architecture import Architecture
from autoformer.cost import Budget, Cost
from autoformer.drawing.budgeted import Candidates
from autoformer.errors import BudgetError
from autoformer.search.candidate import Candidate, known_best, ranked
from autoformer.search.result import SearchResult

FILLED = 0.97  # of a limit


def finalists(result: SearchResult, budget: Budget, count: int) -> list[Candidate]:
    """The chosen, the best, the baselines, and `count` from all along the tied set; by number.

    If none of them fills the budget, the best that does and was evaluated on all search images comes on top.
    """
    named = [result.chosen, result.best, *result.baselines.values(), *spread(result.tied, count)]
    if not any(fills(budget, candidate.cost) for candidate in named):
        named += ranked([candidate for candidate in known_best(result.candidates) if fills(budget, candidate.cost)])[:1]
    return sorted({candidate.number: candidate for candidate in named}.values(), key=lambda candidate: candidate.number)


def cheapest_finalists(result: SearchResult, count: int) -> list[Candidate]:
    """As version 0.1 had them, whatever the budget: of the tied the cheapest `count`. What it began ends so."""
    named = (result.chosen, result.best, *result.baselines.values(), *result.tied[:count])
    return sorted({candidate.number: candidate for candidate in named}.values(), key=lambda candidate: candidate.number)


def spread(tied: Sequence[Candidate], count: int) -> list[Candidate]:
    """So many of them at even distances, the first and the last included; all where there are no more. One is the first."""
    if count >= len(tied):
        return list(tied)
    last, gaps = len(tied) - 1, max(1, count - 1)
    return [tied[(place * last + gaps // 2) // gaps] for place in range(count)]


def fills(budget: Budget, cost: Cost) -> bool:
    """Whether it uses at least 97 % of one of the upper limits; never where there is none."""
    return max(budget.use_of(cost).values(), default=0.0) >= FILLED


def network_to_fill(candidates: Candidates, result: SearchResult, seed: int) -> Architecture | None:
    """What must still be evaluated on all search images, so that a network known from them fills the budget.

    None: one does, or the space has none inside. Of those evaluated on fewer images the best is taken. Otherwise one is
    made: the best network grows until it uses 97 % of a limit, first the one that any candidate used most of; where it cannot
    grow into that, a network is drawn from those that do. A pure function of its arguments.
    """
    budget = candidates.budget
    filling = ranked([candidate for candidate in result.candidates if fills(budget, candidate.cost)])
    if filling:
        return filling[0].architecture if len(filling[0].predictions) < len(result.labels) else None
    uses = [budget.use_of(candidate.cost) for candidate in result.candidates]
    limits = sorted(uses[0], key=lambda limit: -max(use[limit] for use in uses))
    for limit in limits:
        measure = limit.removeprefix("max_")
        least = max(FILLED * getattr(budget, limit), getattr(budget, f"min_{measure}") or 0.0)
        try:
            fuller = Candidates(candidates.space, candidates.costs, replace(budget, **{f"min_{measure}": least}))
            network, _ = fuller.draw(random.Random(f"{seed}/full"), lambda _: result.best.architecture)
        except BudgetError:  # no network comes this near to that limit
            continue
        return network
    return None
