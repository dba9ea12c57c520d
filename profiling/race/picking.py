"""Which networks of a finished search take part in a race: its own choice, others that differ from it, and the plain ones."""

from __future__ import annotations

from collections.abc import Collection

from autoformer.architecture import Architecture
from autoformer.profiling.race.config import RaceConfig
from autoformer.profiling.race.entrant import Kind
from autoformer.search.baselines import is_homogeneous
from autoformer.search.candidate import Candidate, known_best, ranked
from autoformer.search.result import SearchResult
from autoformer.space import SearchSpace


def picked(
    result: SearchResult, space: SearchSpace, config: RaceConfig, without: Collection[Architecture] = ()
) -> list[tuple[Kind, Candidate]]:
    """The networks of the search, each with what it is there for; none twice, and none of those in `without`.

    The first finalist is the search's choice. Each further one is, of those that are not significantly worse than the best, the
    one that differs most from all before it; when these are used up, the next by score. Then the network with the most FLOPs
    inside the budget, and the homogeneous ones with the highest scores.
    """
    every = [candidate for candidate in ranked(known_best(result.candidates)) if candidate.architecture not in without]
    tied_with_best = {candidate.number for candidate in result.tied}
    chosen = result.chosen.architecture
    found = [candidate for candidate in every if candidate.architecture == chosen][:1] or every[:1]
    while len(found) < min(config.finalists, len(every)):
        left = [candidate for candidate in every if candidate.number not in {one.number for one in found}]
        equals = [candidate for candidate in left if candidate.number in tied_with_best]
        if equals:
            found.append(
                max(equals, key=lambda one: min(distance(one.architecture, other.architecture, space) for other in found))
            )
        else:
            found.append(left[0])
    picked: list[tuple[Kind, Candidate]] = [("finalist", candidate) for candidate in found]
    dearest = result.baselines.get("dearest")
    if dearest is not None and dearest.number in {one.number for one in every} - {one.number for one in found}:
        picked.append(("most expensive", dearest))
    known = {candidate.number for _, candidate in picked}
    plain = [candidate for candidate in every if is_homogeneous(candidate.architecture) and candidate.number not in known]
    return [*picked, *(("homogeneous", candidate) for candidate in plain[: config.homogeneous])]


def distance(first: Architecture, second: Architecture, space: SearchSpace) -> float:
    """How much two networks differ, 0 to 1: the mean over width, depth, image size, and their blocks' heads and MLP ratios,
    and whatever else the space asks for.

    Each counts in steps of its choices, as a share of all steps; a block that only one of them has differs wholly.
    """
    parts = [
        _steps(first.embed_dim, second.embed_dim, space.embed_dims),
        _steps(first.depth, second.depth, space.depths),
        _steps(space.image_size_of(first), space.image_size_of(second), space.image_sizes),
    ]
    of_network = [name for name in space.asks_for if name != "mlp_kernel"]
    parts += [_steps(getattr(first, name), getattr(second, name), space.asked_choices[name]) for name in of_network]
    of_blocks: list[tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = [
        (first.num_heads, second.num_heads, space.num_heads),
        (first.mlp_ratio, second.mlp_ratio, space.mlp_ratios),
    ]
    if "mlp_kernel" in space.asks_for:
        of_blocks.append((first.kernels, second.kernels, space.mlp_kernels))
    deeper, common = max(first.depth, second.depth), min(first.depth, second.depth)
    for own, other, choices in of_blocks:
        steps = sum(_steps(one, two, choices) for one, two in zip(own[:common], other[:common], strict=True))
        parts.append((steps + deeper - common) / deeper)
    return sum(parts) / len(parts)


def _steps(first: float, second: float, choices: tuple[float, ...]) -> float:
    return abs(choices.index(first) - choices.index(second)) / max(1, len(choices) - 1)
