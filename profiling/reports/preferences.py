"""What the Pareto front prefers: how often each choice of the space is taken there, and among all that were evaluated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.profiling.reports.blocks import BLUE, GREY, Figure, Plot, Section, Table, common_layout, one_view
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.wording import capital, words_of
from autoformer.search.audit import searchability
from autoformer.search.result import SearchResult, fronts
from autoformer.space import SearchSpace

KINDS = (  # of a block: the key, the words of its table, of a column and of an axis
    ("heads", "Heads", "heads", "heads"),
    ("mlp_ratio", "MLP ratios", "ratio", "MLP ratio"),
    ("mlp_kernel", "MLP kernels", "kernel", "MLP kernel"),  # where the space asks for it
)
DOMAINS = {2: ([0.54, 1], [0, 0.46]), 3: ([0.72, 1], [0.36, 0.64], [0, 0.28])}  # of so many heat maps, from above
TITLE = "What the Pareto front prefers"
PIXELS = ("image size", "patch size")
HALVED, NEVER = "halved after block", "never"
MOST_BLOCKS_WITH_NUMBERS = 8  # cells of more are too narrow on a phone
# See-through, so that the page's own background and letters keep their contrast in both schemes.
_DIVERGING = [[0, "rgba(224,123,26,0.7)"], [0.5, "rgba(139,145,154,0.15)"], [1, "rgba(63,143,210,0.7)"]]


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
    for name, word, choices in (
        ("patch_size", "patch size", space.patch_choices),
        ("head_dim", "head width", space.head_dim_choices),
        ("stem_depth", "stem depth", space.stem_depths),
        ("pool_after", HALVED, space.pool_after),
    ):
        if name in space.asks_for:
            shapes[word] = _counts(choices, {group: [getattr(a, name) for a in members] for group, members in networks.items()})
    blocks: list[dict[str, Any]] = []
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
        if "mlp_kernel" in space.asks_for:
            kernels = {name: [a.kernels[index] for a in members] for name, members in having.items()}
            blocks[-1]["mlp_kernel"] = _counts(space.mlp_kernels, kernels)
    return {**{name: len(members) for name, members in networks.items()}, "shapes": shapes, "blocks": blocks}


def _counts(choices: Sequence[float], taken: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """By choice, how many of each group took it."""
    counted = {name: Counter(values) for name, values in taken.items()}
    every = sorted(set(choices).union(*taken.values()))  # a space may have members beyond the listed choices
    return [{"choice": choice, **{name: counts[choice] for name, counts in counted.items()}} for choice in every]


# --- words ---------------------------------------------------------------------------------------------------------


def section(report: Mapping[str, Any]) -> Section:
    """The preferences in sentences, figures and numbers."""
    found, order = report["search"]["preferences"], report["search"].get("searchability")
    if order is not None and not order["searchable"]:
        why = "No preferences are drawn, because what the front prefers would be noise (see The choice)."
        return Section(name="preferences", title=TITLE, text=(why,))
    one = found["front"] == 1
    text = (
        f"{found['front']} of {found['evaluated']} networks {'is' if one else 'are'} on the front: no other that saw all images "
        f"is at least as good in {words_of(report)} and every cost, and better in one. Shares of few networks are rough. A "
        "search proposes more of what its best candidates have, so a preference may be stronger than it looks here.",
        "In the tables, 67 / 40 means: 67 % of the networks on the front and 40 % of all evaluated make this choice.",
    )
    return Section(
        name="preferences",
        title=TITLE,
        text=text,
        tables=preference_tables(report),
        figures=("blocks", "shapes"),
        figures_first=True,
    )


def preference_tables(report: Mapping[str, Any]) -> tuple[Table, ...]:
    """The figures of the front's preferences in numbers: heads, MLP ratios and kernels by block, then the shapes."""
    found = report["search"]["preferences"]
    tables = []
    for kind, title, word, _ in _kinds(found):
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
        (_shape(kind, entry["choice"]), _shares(entry, found)) for kind, entries in found["shapes"].items() for entry in entries
    ]
    columns = ("choice", f"{found['front']} / {found['evaluated']}")
    return (*tables, Table(title="Shapes", columns=columns, rows=tuple(shapes), numbers=(1,), compact=True))


def _kinds(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Those of `KINDS` that the space has."""
    return [kind for kind in KINDS if kind[0] in found["blocks"][0]]


def _shape(kind: str, choice: float) -> str:
    """A choice of one in a network, in words."""
    return "never halved" if _value(kind, choice) == NEVER else f"{kind} {choice:g}{' px' if kind in PIXELS else ''}"


def _value(kind: str, choice: float) -> str:
    return NEVER if kind == HALVED and not choice else f"{choice:g}"


def _shares(entry: Mapping[str, Any] | None, networks: Mapping[str, Any]) -> str:
    """`67 / 40`: per cent of the networks on the front, and of all evaluated; a stroke where there is no network."""
    counts = {"front": 0, "evaluated": 0} if entry is None else entry
    shares = (f"{100 * counts[group] / networks[group]:.0f}" if networks[group] else "–" for group in ("front", "evaluated"))
    return " / ".join(shares)


# --- figures -------------------------------------------------------------------------------------------------------


def is_noise(result: SearchResult) -> bool:
    """Whether the order of a search is no more than chance, so that a preference of its front says nothing."""
    found = searchability(result)
    return found is not None and not found.searchable


def preferences_figure(run: Run) -> Figure | None:
    """Heads above, MLP ratios (and kernels) below: each choice in each block, as its share on the front less that among all.

    Blocks that no network on the front has are left out. None where the order of the networks is noise.
    """
    if is_noise(run.search):
        return None
    found = preferences(run.space, run.search)
    blocks = [block for block in found["blocks"] if block["front"]]
    kinds = [(kind, word, "" if place == 0 else str(place + 1)) for place, (kind, _, _, word) in enumerate(_kinds(found))]
    traces = [_cells(blocks, kind, word, axis, found) for kind, word, axis in kinds]
    reach = max((abs(cell) for trace in traces for row in trace["z"] for cell in row), default=0)
    most = max(10, 10 * math.ceil(reach / 10))
    layout = common_layout("block", "heads", showlegend=False)
    layout["margin"]["t"] = 40
    layout["xaxis"] |= {
        "anchor": f"y{len(kinds)}",
        "range": [0.5, len(blocks) + 0.5],
        "tick0": 1,
        "tickangle": 0,
        "dtick": 2 ** max(0, math.ceil(math.log2(len(blocks) / MOST_BLOCKS_WITH_NUMBERS))),
        "showgrid": False,
    }
    for (_, word, axis), domain in zip(kinds, DOMAINS[len(kinds)], strict=True):
        if not axis:
            layout["yaxis"] |= {"type": "category", "domain": domain, "showgrid": False}
        else:
            layout[f"yaxis{axis}"] = {
                "title": {"text": word}, "type": "category", "domain": domain, "anchor": "x", "showgrid": False,
            }  # fmt: skip
    layout["coloraxis"] = {
        "cmin": -most, "cmax": most, "colorscale": _DIVERGING,
        "colorbar": {
            "orientation": "h", "ypad": 0, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "len": 0.6, "thickness": 10,
            "outlinewidth": 0, "tickvals": [-most, 0, most], "ticktext": [f"−{most} points", "as often", f"+{most} points"],
        },
    }  # fmt: skip
    more = " The number in a cell is the share on the front in %." if len(blocks) <= MOST_BLOCKS_WITH_NUMBERS else ""
    if len(blocks) < len(found["blocks"]):
        more += f" Blocks after {len(blocks)} are left out: no network on the front is so deep."
    caption = (
        f"Blue: a larger share of the {found['front']} networks on the front makes this choice than of all {found['evaluated']} "
        f"evaluated; orange: a smaller one. Networks that are too shallow for a block are left out there.{more}"
    )
    title = "Heads, MLP ratios and kernels" if len(kinds) == len(KINDS) else "Heads and MLP ratios"
    return one_view("blocks", f"{title}, block by block", caption, traces, layout)


def _cells(blocks: list[dict[str, Any]], kind: str, word: str, axis: str, found: Mapping[str, Any]) -> Plot:
    """The heat map of one kind of choice in blocks that networks on the front have."""
    choices = sorted({entry["choice"] for block in blocks for entry in block[kind]})
    z: list[list[float]] = []
    shown, hover = [], []
    for choice in choices:
        differences, shares, texts = list[float](), [], []
        for block in blocks:
            counts = next((entry for entry in block[kind] if entry["choice"] == choice), {"front": 0, "evaluated": 0})
            among, share = (100 * counts[group] / block[group] for group in ("evaluated", "front"))
            differences.append(round(share - among, 2))
            shares.append(f"{share:.0f}" if len(blocks) <= MOST_BLOCKS_WITH_NUMBERS else "")
            texts.append(
                f"block {block['block']}, {word} {choice:g}<br>{counts['front']} of {block['front']} on the front "
                f"({share:.0f} %)<br>{counts['evaluated']} of {block['evaluated']} evaluated ({among:.0f} %)"
            )
        z.append(differences)
        shown.append(shares)
        hover.append(texts)
    return {
        "type": "heatmap", "name": word, "coloraxis": "coloraxis", "xgap": 2, "ygap": 2,
        "x": [block["block"] for block in blocks], "y": [f"{choice:g}" for choice in choices], "yaxis": f"y{axis}",
        "z": z, "text": shown, "texttemplate": "%{text}", "hovertext": hover, "hovertemplate": "%{hovertext}<extra></extra>",
    }  # fmt: skip


def shapes_figure(run: Run) -> Figure | None:
    """Width, depth and what else a network has one of: shares on the front beside those among all evaluated, as bars.

    None where the order of the networks is noise.
    """
    if is_noise(run.search):
        return None
    found = preferences(run.space, run.search)
    rows = [(kind, entry) for kind, entries in found["shapes"].items() for entry in entries]
    groups = {"front": ("on the front", BLUE), "evaluated": ("among all evaluated", GREY)}
    traces = [
        {
            "type": "bar", "orientation": "h", "name": f"{word} ({found[group]})", "marker": {"color": colour},
            "y": [[kind for kind, _ in rows], [_value(kind, entry["choice"]) for kind, entry in rows]],
            "x": [100 * entry[group] / found[group] for _, entry in rows],
            "text": [f"{kind} {_value(kind, entry['choice'])}: {entry[group]} of {found[group]} {word}" for kind, entry in rows],
            "textposition": "none", "hovertemplate": "%{text} (%{x:.0f} %)<extra></extra>",
        }
        for group, (word, colour) in groups.items()
    ]  # fmt: skip
    layout = common_layout("share of the networks, %", "", bargap=0.25)
    layout["xaxis"] |= {"rangemode": "tozero"}
    layout["yaxis"] = {"autorange": "reversed", "showgrid": False}
    kinds = [kind if kind not in PIXELS else f"{kind} (px)" for kind in found["shapes"]]
    title = capital(", ".join(kinds[:-1]) + f" and {kinds[-1]}")
    return one_view("shapes", title, "Of the same networks: which share has each value.", traces, layout)
