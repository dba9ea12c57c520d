"""What a report says about the search, as values: every candidate, who is compared with whom, and what the front prefers.

With successive halving candidates have seen different numbers of search images. Comparisons and fronts are of those that saw
the most; what the front prefers is set against all that were evaluated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.evaluated import Candidate
from autoformer.profiling.report_data import Run
from autoformer.search_result import SearchResult, fronts
from autoformer.space import SearchSpace

BASELINES = {"dearest": "dearest inside", "uniform": "best uniform"}  # names of search.json in words


def compared(result: SearchResult) -> dict[str, Candidate]:
    """The candidates that a reader asks for, by what they are; one may be several of them."""
    known = {BASELINES.get(name, name): candidate for name, candidate in result.baselines.items()}
    return {"chosen": result.chosen, "best": result.best, **known}


def search_content(run: Run) -> dict[str, Any]:
    """How the search went, and every candidate; JSON."""
    result = run.search
    tied = {candidate.number for candidate in result.tied}
    by_cost = fronts(result.candidates)
    front = {candidate.number for candidate in by_cost["flops"]}

    def described(candidate: Candidate) -> dict[str, Any]:
        return {
            "number": candidate.number,
            "generation": candidate.generation,
            "slug": candidate.architecture.slug,
            "architecture": candidate.architecture.to_dict(),
            "params": candidate.cost.params,
            "flops": candidate.cost.flops,
            "predicted_latency_ms": candidate.cost.latency_ms,
            "score": candidate.score.to_dict(),
            "tied": candidate.number in tied,
            "front": candidate.number in front,
        }

    return {
        "method": run.search_config["method"],
        "choose": run.search_config["choose"],
        "images": len(result.labels),
        "chosen": result.chosen.number,
        "best": result.best.number,
        "best_score": result.best.score.to_dict(),
        "compared": {name: _compared(result, candidate) for name, candidate in compared(result).items()},
        "confirmation": _confirmation(result),
        "work": _work(result),
        "fronts": {measure: [candidate.number for candidate in members] for measure, members in by_cost.items()},
        "history": {
            method: [{"images": images, "best": best} for images, best in points] for method, points in run.progress.items()
        },
        "preferences": preferences(run.space, result),
        "evaluated": [described(candidate) for candidate in result.candidates],
    }


def _compared(result: SearchResult, candidate: Candidate) -> dict[str, Any]:
    """One network beside the chosen one."""
    chosen = result.chosen
    if candidate.number == chosen.number:
        against = "the same network"
    elif candidate.score.images < chosen.score.images:
        against = "saw fewer images"
    elif result.on_par(candidate):
        against = "cannot be told apart"
    else:
        against = "worse" if candidate.score.value < chosen.score.value else "better"
    again = result.confirmed.get(candidate.number)
    return {
        "number": candidate.number,
        "slug": candidate.architecture.slug,
        "params": candidate.cost.params,
        "flops": candidate.cost.flops,
        "score": candidate.score.to_dict(),
        "confirmed": None if again is None else again.to_dict(),
        "against_chosen": against,
    }


def _confirmation(result: SearchResult) -> dict[str, Any] | None:
    """Every confirmed score, by the number of the candidate; None where nothing was confirmed."""
    if not result.confirmed:
        return None
    scores = {str(number): score.to_dict() for number, score in sorted(result.confirmed.items())}
    return {"images": len(result.confirmation_labels), "scores": scores}


def _work(result: SearchResult) -> dict[str, Any]:
    """Guesses that were asked for, and what halving saved of asking every network about every search image, as a share."""
    whole = len(result.candidates) * len(result.labels)
    return {**result.images, "saved": 1 - result.images["evaluated"] / whole}


# --- preferences -------------------------------------------------------------------------------------------------


def preferences(space: SearchSpace, result: SearchResult) -> dict[str, Any]:
    """How often each choice of the space is taken on the front of the score and all costs, and among all evaluated.

    Counts of networks. A block counts those that are deep enough to have it; the image size is there when it is a choice.
    """
    networks = {
        "front": [candidate.architecture for candidate in fronts(result.candidates)["all"]],
        "evaluated": [candidate.architecture for candidate in result.candidates],
    }
    shapes = {
        "width": _counts(space.embed_dims, {name: [a.embed_dim for a in members] for name, members in networks.items()}),
        "depth": _counts(space.depths, {name: [a.depth for a in members] for name, members in networks.items()}),
    }
    if len(space.image_sizes) > 1:
        sizes = {name: list(map(space.image_size_of, members)) for name, members in networks.items()}
        shapes["image size"] = _counts(space.image_sizes, sizes)
    blocks = []
    for index in range(max(architecture.depth for architecture in networks["evaluated"])):
        having = {name: [a for a in members if a.depth > index] for name, members in networks.items()}
        heads = {name: [a.num_heads[index] for a in members] for name, members in having.items()}
        ratios = {name: [a.mlp_ratio[index] for a in members] for name, members in having.items()}
        blocks.append(
            {
                "block": index + 1,
                **{name: len(members) for name, members in having.items()},
                "heads": _counts(space.num_heads, heads),
                "mlp_ratio": _counts(space.mlp_ratios, ratios),
            }
        )
    return {**{name: len(members) for name, members in networks.items()}, "shapes": shapes, "blocks": blocks}


def _counts(choices: Sequence[float], taken: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """By choice, how many of each group took it."""
    counted = {name: Counter(values) for name, values in taken.items()}
    every = sorted(set(choices).union(*taken.values()))  # a space may have members beyond the listed choices
    return [{"choice": choice, **{name: counts[choice] for name, counts in counted.items()}} for choice in every]
