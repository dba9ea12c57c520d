"""What a report says about the search, as values: every candidate, who is compared with whom, and what the front prefers.

With successive halving candidates have seen different numbers of search images. Comparisons and fronts are of those that saw
the most; what the front prefers is set against all that were evaluated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.cost import show
from autoformer.metric import WORDS, metric_from
from autoformer.profiling.reports.blocks import Table
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.wording import score_text, words_of
from autoformer.search.candidate import Candidate
from autoformer.search.result import SearchResult, fronts
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


def _choice_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    search = report["search"]
    how = {"best": f"the highest {words_of(report)}", "cheapest": "the fewest FLOPs"}[search["choose"]]
    tied = report["tied"]
    test = "McNemar's exact test" if report["metric"] == "top1" else "random swaps of guesses"
    if tied == 1:
        ties = f"No other candidate is within reach of the best on these images ({test}, 5 %)."
    else:
        ties = (
            f"{tied} of the {report['candidates']}, the best included, cannot be told apart from the best on these images "
            f"({test}, 5 %); among them the one with {how} was chosen."
        )
    loop = report["latency_loop"]
    if loop is not None and loop["instead_of"]:
        ties += f" That was {loop['instead_of']}; after measuring, {loop['slug']} was chosen instead, see below."
    return (
        f"{report['candidates']} networks were scored with inherited weights on {_seen_words(search)}. {ties}",
        *_work_text(report),
        _accuracy_text(report),
    )


def _seen_words(search: Mapping[str, Any]) -> str:
    """On how many images the candidates were scored."""
    whole = sum(candidate["score"]["images"] == search["images"] for candidate in search["evaluated"])
    if whole == len(search["evaluated"]):
        return f"{search['images']} images of the search part"
    return f"up to {search['images']} images of the search part ({whole} of them on all)"


def _work_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    """What halving and earlier searches saved; nothing where they saved nothing."""
    work = report["search"]["work"]
    if not work["saved"] and not work["reused"]:
        return ()
    text = f"Together they were given {work['evaluated']:,} images"
    if work["saved"] > 0:
        text += f", {100 * work['saved']:.0f} % less than if every one had seen every image"
    return (text + (f"; {work['reused']:,} guesses came from earlier searches." if work["reused"] else "."),)


def _accuracy_text(report: Mapping[str, Any]) -> str:
    """The score of the chosen network and of the best: the confirmed ones where there are, and how far to trust them."""
    search, metric = report["search"], words_of(report)
    chosen, best = search["compared"]["chosen"], search["compared"]["best"]
    alone = chosen["number"] == best["number"]
    of_best = "" if alone else f" and {score_text(best['score'])} for the best"
    on_search = f"{score_text(chosen['score'])} for the chosen network{', the best of all' if alone else ''}{of_best}"
    optimistic = "such scores are optimistic, because the best of many was picked by them"
    if chosen["confirmed"] is None:
        return f"On the search images the {metric} is {on_search}; {optimistic}. Only the test part is free of that."
    again = "" if alone or best["confirmed"] is None else f", that of the best {score_text(best['confirmed'])}"
    return (
        f"The {metric} of the chosen network is {score_text(chosen['confirmed'])} on {search['confirmation']['images']} images "
        f"that took no part in the choice{again}. On the search images it is {on_search}; {optimistic}."
    )


def _preferences_text(report: Mapping[str, Any]) -> tuple[str, ...]:
    found = report["search"]["preferences"]
    one = found["front"] == 1
    return (
        f"{found['front']} of {found['evaluated']} networks {'is' if one else 'are'} on the front: nothing that was scored on "
        f"all images is at least as good in {words_of(report)} and every cost, and better in one. Shares of few networks are "
        "rough, and a search that follows its best candidates proposes more of what they have, so a preference may be stronger "
        "than it looks here.",
        "In the tables, 67 / 40 means that a choice is made by 67 % of the networks on the front and by 40 % of all evaluated.",
    )


KINDS = (("heads", "Heads", "heads"), ("mlp_ratio", "MLP ratios", "ratio"))


def compared_table(report: Mapping[str, Any]) -> Table:
    """The chosen network, the best and the baselines: scores on the search images and on those that confirm them."""
    search = report["search"]
    confirmation, metric = search["confirmation"], WORDS[metric_from(report["metric"])]
    rows = []
    for name, network in search["compared"].items():
        again = "not scored" if network["confirmed"] is None else score_text(network["confirmed"])
        row = (
            f"{name} ({network['slug']})",
            score_text(network["score"]),
            *(() if confirmation is None else (again,)),
            "–" if name == "chosen" else network["against_chosen"],
            show("params", network["params"]),
            show("flops", network["flops"]),
        )
        rows.append(row)
    columns = ["network", f"{metric} on the search images"]
    columns += [] if confirmation is None else [f"on {confirmation['images']} other images"]
    columns += ["against the chosen", "parameters", "FLOPs"]
    notes = {
        "dearest inside": "Dearest inside: the most FLOPs that the budget allows.",
        "best uniform": "Best uniform: the best of the evaluated networks that have the same block throughout.",
    }
    return Table(
        title="The chosen network beside others",
        columns=tuple(columns),
        rows=tuple(rows),
        numbers=tuple(range(len(columns) - 2, len(columns))),
        note=" ".join([*(text for name, text in notes.items() if name in search["compared"]),
                       "Networks are compared image by image on the search images."]),
    )  # fmt: skip


def preference_tables(report: Mapping[str, Any]) -> tuple[Table, ...]:
    """The figures of the front's preferences in numbers: heads and MLP ratios by block, then the shapes."""
    found = report["search"]["preferences"]
    tables = []
    for kind, title, word in KINDS:
        choices = sorted({entry["choice"] for block in found["blocks"] for entry in block[kind]})
        rows = []
        for block in found["blocks"]:
            counts = {entry["choice"]: entry for entry in block[kind]}
            cells = (_shares(counts.get(choice), block) for choice in choices)
            rows.append((str(block["block"]), f"{block['front']} / {block['evaluated']}", *cells))
        tables.append(
            Table(
                title=f"{title} by block",
                columns=("block", "networks", *(f"{word} {choice:g}" for choice in choices)),
                rows=tuple(rows),
                numbers=tuple(range(1, 2 + len(choices))),
                compact=True,
            )
        )
    shapes = [
        (f"{kind} {entry['choice']:g}{' px' if kind == 'image size' else ''}", _shares(entry, found))
        for kind, entries in found["shapes"].items()
        for entry in entries
    ]
    columns = ("choice", f"{found['front']} / {found['evaluated']}")
    return (*tables, Table(title="Shapes", columns=columns, rows=tuple(shapes), numbers=(1,), compact=True))


def _shares(entry: Mapping[str, Any] | None, networks: Mapping[str, Any]) -> str:
    """`67 / 40`: per cent of the networks on the front, and of all evaluated; a stroke where there is no network."""
    counts = {"front": 0, "evaluated": 0} if entry is None else entry
    shares = (f"{100 * counts[group] / networks[group]:.0f}" if networks[group] else "–" for group in ("front", "evaluated"))
    return " / ".join(shares)
