"""`Proposals`: which architectures a search evaluates next, by each of its methods.

All methods draw from the same `Candidates`, begin with the same drawn generation, propose nothing twice and equally many
in all; they differ in what they make of the scores. Each generation is a pure function of the seed and the evaluations
before it, so a search that is interrupted, or shared by several processes, proposes what an undisturbed one would.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoformer.architecture import Architecture
from autoformer.cost import Outline
from autoformer.drawing.budgeted import Candidates, Draw
from autoformer.search.benefit import BlockBenefits
from autoformer.search.candidate import Candidate, ranked
from autoformer.search.config import SearchConfig
from autoformer.search.pareto import crowding, nondominated_ranks
from autoformer.search.result import objectives
from autoformer.space import SearchSpace

PENALTIES = tuple(10.0**power for power in range(-2, 5))
DIGITS = 9  # of a prediction that count; more would be rounding errors, and decide differently on another machine


class Proposals:
    """Proposes generations; knows only what it is told."""

    def __init__(self, candidates: Candidates, config: SearchConfig, seed: int, benefits: BlockBenefits | None = None) -> None:
        """`benefits` decide which blocks of the first generation rather lack a part; None: all alike."""
        self.candidates, self.config, self.seed, self.benefits = candidates, config, seed, benefits

    def generation(self, index: int, told: Sequence[Candidate]) -> list[Architecture]:
        """The architectures of generation `index`, given every earlier candidate: a pure function of both and the seed.

        May be shorter than the population where the budget leaves few architectures; empty when none is left.
        """
        rng = random.Random(f"{self.seed}/generation/{index}")
        known = {candidate.architecture for candidate in told}
        found: list[Architecture] = []
        if index:
            match self.config.method:
                case "evolution":
                    parents = [candidate.architecture for candidate in ranked(told)[: self.config.parents]]
                    found = self._varied(rng, known, lambda rng: rng.choice(parents))
                case "pareto":
                    found = self._varied(rng, known, self._tournament(told))
                case "predictor":
                    found = self._predicted(rng, known, told)
                case "random":
                    pass
        elif (benefits := self.benefits) is not None:
            leaning = lambda rng: benefits.leaning(self.candidates.draw(rng)[0], rng)  # noqa: E731
            found = self.candidates.distinct(rng, self.config.population, known, leaning)
        return found + self.candidates.distinct(rng, self.config.population - len(found), known)

    def promoted(self, told: Sequence[Candidate], images: int, count: int) -> list[Candidate]:
        """The best `count` of those known from so many images: they are evaluated on more. In the order of their numbers.

        Whatever generation they come from; who went up before is known from more images and does not compete.
        """
        rung = [candidate for candidate in told if len(candidate.predictions) == images]
        best = (pareto_ranked(rung) if self.config.method == "pareto" else ranked(rung))[:count]
        return sorted(best, key=lambda candidate: candidate.number)

    def _varied(self, rng: random.Random, known: set[Architecture], parent: Draw) -> list[Architecture]:
        """New architectures by mutation and by crossover of what `parent` gives, at most a population."""
        config = self.config
        mutated = self.candidates.distinct(rng, min(config.mutated, config.population), known, self._mutation(parent))
        left = config.population - len(mutated)
        return mutated + self.candidates.distinct(rng, min(config.crossed, left), known, self._crossover(parent))

    def _mutation(self, parent: Draw) -> Draw:
        space, (shape, block) = self.candidates.space, self.config.mutation_probabilities
        return lambda rng: space.mutate(parent(rng), rng, shape_probability=shape, block_probability=block)

    def _crossover(self, parent: Draw) -> Draw:
        return lambda rng: self.candidates.space.crossover(parent(rng), parent(rng), rng)

    # --- Pareto --------------------------------------------------------------------------------------------------

    def _tournament(self, told: Sequence[Candidate]) -> Draw:
        """NSGA-II's choice of a parent: of two members of the best population so far, the one of the better front.

        Optuna's NSGAIISampler is not used: it crosses the parameters of trials, of which ours have none (one attribute holds
        the candidate), and what it proposes would have to be rejected until it lies inside the budget. So its selection is
        made here, over all evaluations so far, with the moves of the evolution.
        """
        survivors = [candidate.architecture for candidate in pareto_ranked(told)[: self.config.population]]
        return lambda rng: survivors[min(rng.randrange(len(survivors)), rng.randrange(len(survivors)))]

    # --- predictor -----------------------------------------------------------------------------------------------

    def _predicted(self, rng: random.Random, known: set[Architecture], told: Sequence[Candidate]) -> list[Architecture]:
        """The best predicted of a pool: half drawn from the budget, half varied from the best so far."""
        config, space = self.config, self.candidates.space
        if len(told) < 2:
            return []
        scores, images = [c.score.value for c in told], [len(c.predictions) for c in told]
        predictor = Predictor(space, [c.architecture for c in told], scores, images)
        parents = [candidate.architecture for candidate in ranked(told)[: config.parents]]
        seen = set(known)
        pool = self.candidates.distinct(rng, config.pool // 2, seen, attempts=config.pool)
        for vary in (self._mutation, self._crossover):
            count = (config.pool - config.pool // 2) // 2
            pool += self.candidates.distinct(rng, count, seen, vary(lambda rng: rng.choice(parents)), attempts=2 * count)
        if not pool:
            return []
        expected = predictor(pool)
        order = sorted(range(len(pool)), key=lambda index: -expected[index])  # equals stay as they were drawn
        picked = [pool[index] for index in order[: config.population - round(config.explored * config.population)]]
        known.update(picked)
        return picked


def pareto_ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """NSGA-II's order: by front, within a front by how far the neighbours are; those known from more images before the others."""
    found: list[Candidate] = []
    for images in sorted({len(candidate.predictions) for candidate in candidates}, reverse=True):
        rung = [candidate for candidate in candidates if len(candidate.predictions) == images]
        values = objectives(rung)
        ranks = nondominated_ranks(values)
        spread = np.zeros(len(rung))
        for rank in range(int(ranks.max()) + 1):
            spread[ranks == rank] = crowding(values[ranks == rank])
        order = sorted(range(len(rung)), key=lambda index: (ranks[index], -spread[index], rung[index].number))
        found += [rung[index] for index in order]
    return found


class Predictor:
    """Fitted on at least two architectures with their scores."""

    def __init__(
        self, space: SearchSpace, architectures: Sequence[Architecture], scores: Sequence[float], images: Sequence[int]
    ) -> None:
        """`images` are how many each score was taken on; a score counts by them, as its variance is inverse to them."""
        from sklearn.linear_model import RidgeCV

        self.space = space
        weights = np.asarray(images, np.float64) / max(images)
        self._model = RidgeCV(alphas=PENALTIES).fit(features(architectures, space), np.asarray(scores, np.float64), weights)

    def __call__(self, architectures: Sequence[Architecture]) -> list[float]:
        """The scores it expects."""
        return [round(float(value), DIGITS) for value in self._model.predict(features(architectures, self.space))]


def features(architectures: Sequence[Architecture], space: SearchSpace) -> NDArray[np.float64]:
    """The choices of each architecture as zeros and ones, [n, features]."""
    return np.asarray([_features(network, space) for network in architectures], np.float64)


def _features(network: Architecture, space: SearchSpace) -> list[int]:
    own = Outline.of(network, space)
    of_network: list[tuple[Sequence[int], int]] = [
        (space.embed_dims, own.embed_dim), (space.depths, own.depth), (space.image_sizes, own.image_size),
    ]  # fmt: skip
    of_block: list[tuple[Sequence[float], Sequence[float]]] = [
        (space.num_heads, network.num_heads), (space.mlp_ratios, network.mlp_ratio),
    ]  # fmt: skip
    asked = {
        "patch_size": (space.patch_choices, own.patch_size),
        "head_dim": (space.head_dim_choices, own.head_dim),
        "stem_depth": (space.stem_depths, own.stem_depth),
        "pool_after": (space.pool_after, own.pool_after),
    }
    of_network += [asked[name] for name in space.asks_for if name in asked]
    if "mlp_kernel" in space.asks_for:
        of_block.append((space.mlp_kernels, network.kernels))
    found = [int(value == choice) for choices, value in of_network for choice in choices]
    for block in range(space.depths[-1]):
        for choices, values in of_block:
            found += [int(block < network.depth and values[block] == choice) for choice in choices]
    return found
