"""What rows of regret say: means, paired differences with their intervals, a table and a figure.

Two intervals answer two questions. "Of another supernet": the unit is the supernet. Its budgets and seeds share a table of truth
and a table of scores, so they are averaged first, and the interval is Student's over the means of the supernets. It is wide,
since they are few; a bootstrap of so few would be too narrow, and supernets times budgets would count one supernet three times.
"On these supernets": the unit is the seed, averaged over supernets and budgets; Student's over the seeds, all tables as they are.
Differences are taken pair by pair (same supernet, budget and seed) before anything is averaged.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from scipy.stats import t as student

Key = tuple[str, float, int]  # supernet, share, seed
Interval = tuple[float, float, float]  # mean, low, high
SUPERNET, SEED = 0, 2  # places in a key


def regrets(rows: Sequence[Mapping[str, Any]], arm: str, pick: str = "best") -> dict[Key, float]:
    """The regret of an arm's pick in every search, in points."""
    found = {(row["supernet"], row["share"], row["seed"]): float(row[pick]) for row in rows if row["arm"] == arm}
    assert len(found) == sum(row["arm"] == arm for row in rows), f"{arm}: a search occurs twice"
    return found


def interval(values: Mapping[Key, float], unit: int = SUPERNET) -> Interval:
    """The mean over units of their means, with Student's 95 % interval; without one (low = high = nan) for one unit."""
    groups: dict[Any, list[float]] = {}
    for key, value in values.items():
        groups.setdefault(key[unit], []).append(value)
    means = [statistics.mean(group) for group in groups.values()]
    mean = statistics.mean(means)
    if len(means) < 2:
        return mean, float("nan"), float("nan")
    half = float(student.ppf(0.975, len(means) - 1)) * statistics.stdev(means) / sqrt(len(means))
    return mean, mean - half, mean + half


def difference(first: Mapping[Key, float], second: Mapping[Key, float], unit: int = SUPERNET) -> Interval:
    """First minus second, search by search: negative where the first has less regret. Both hold the same searches."""
    assert first.keys() == second.keys(), "only the same searches can be paired"
    return interval({key: first[key] - second[key] for key in first}, unit)


def verdict(found: Interval) -> str:
    """In words, of a difference in regret."""
    _, low, high = found
    return "beats it" if high < 0 else "loses to it" if low > 0 else "not significantly different"


def in_words(found: Interval, sign: str = "") -> str:
    """A mean with its interval, if there is one."""
    mean, low, high = found
    if low != low:
        return f"{mean:{sign}.2f}"
    return f"{mean:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def against(rows: Sequence[Mapping[str, Any]], arm: str, other: str, unit: int = SUPERNET) -> str:
    """A cell of a table."""
    return "" if arm == other else in_words(difference(regrets(rows, arm), regrets(rows, other), unit), "+")


def beating(rows: Sequence[Mapping[str, Any]], arms: Sequence[str], other: str, unit: int = SUPERNET) -> str:
    """The arms whose interval against `other` lies below 0."""
    names = [arm for arm in arms if arm != other]
    found = [arm for arm in names if verdict(difference(regrets(rows, arm), regrets(rows, other), unit)) == "beats it"]
    return ", ".join(found) or "none"


def markdown(record: Mapping[str, Any]) -> str:
    """The results in words and tables."""
    rows: Sequence[Mapping[str, Any]] = record["rows"]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    methods = [arm for arm in record["arms"] if set(record["arms"][arm]) == {"method"}]
    baselines = ["most expensive in the budget", "homogeneous baseline"]
    order = [*methods, *baselines, *(arm for arm in arms if arm not in (*methods, *baselines))]
    supernets, seeds = {row["supernet"] for row in rows}, {row["seed"] for row in rows}
    shares = sorted({row["share"] for row in rows})
    networks = record["networks"]
    spreads = [facts["accuracy"] for facts in record["supernets"].values()]
    lines = [
        "# Regret of searches",
        "",
        f"{len(supernets)} supernets × {len(shares)} budgets × {len(seeds)} seeds in a space of {networks:,} networks, CIFAR-10;",
        f"a search sees 50 of them, {5000 / networks:.1f} %. Regret: the best accuracy inside the budget minus the pick's, in",
        "points, on truth images that no search sees; means with 95 % intervals. On these images the networks reach "
        f"{min(s['lowest'] for s in spreads):.1f} to {max(s['highest'] for s in spreads):.1f} %.",
        "",
        "| | networks | images | regret |",
        "|---" * 4 + "|",
    ]
    for arm in order:
        own = [row for row in rows if row["arm"] == arm]
        counts = [f"{statistics.mean(row[name] for row in own):,.0f}" for name in ("networks", "images")]
        lines.append(f"| {arm} | {' | '.join(counts)} | {in_words(interval(regrets(rows, arm)))} |")
    others = ("random", "most expensive in the budget", "homogeneous baseline", "evolution")
    for unit, words in ((SUPERNET, "Of another supernet"), (SEED, "On these supernets, of another seed")):
        lines += [
            "",
            f"{words}: regret minus that of",
            "",
            "| | " + " | ".join(others) + " |",
            "|---" * (len(others) + 1) + "|",
        ]
        for arm in order:
            lines.append(f"| {arm} | " + " | ".join(against(rows, arm, other, unit) for other in others) + " |")
        lines += [
            "",
            f"Methods that beat random: {beating(rows, methods, 'random', unit)}. "
            f"That beat the most expensive in the budget: {beating(rows, methods, 'most expensive in the budget', unit)}. "
            f"That beat the homogeneous baseline: {beating(rows, methods, 'homogeneous baseline', unit)}.",
        ]
    lines += [
        "",
        "`all inside` evaluates every network of the budget on the search images: what remains there is the two sets of images.",
        "`one drawn` is a network drawn from the budget without looking.",
        "",
        "Halving: the first rungs compare many networks on few images. Regret minus that of the same method with every network",
        "on all images. The rungs are 125, 500 and 2,000 images; the default leaves out the first, which is too few to tell",
        "networks apart. A larger search part has larger rungs.",
        "",
        "| | networks | images | of another supernet | | on these supernets | |",
        "|---" * 7 + "|",
    ]
    for arm, whole in record["halved"].items():
        own, full = ([row for row in rows if row["arm"] == name] for name in (arm, whole))
        cells = [f"{statistics.mean(row['networks'] for row in own):.0f}"]
        cells.append(f"{100 * sum(row['images'] for row in own) / sum(row['images'] for row in full):.0f} %")
        for unit in (SUPERNET, SEED):
            found = difference(regrets(rows, arm), regrets(rows, whole), unit)
            cells += [in_words(found, "+"), verdict(found)]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines += [
        "",
        "By budget, of the way from the smallest to the largest network's FLOPs (networks inside):",
        "",
        "| | " + " | ".join(f"{100 * share:.0f} % ({record['inside'][f'{share:g}']})" for share in shares) + " |",
        "|---" * (len(shares) + 1) + "|",
    ]
    for arm in order:
        means = [interval({key: v for key, v in regrets(rows, arm).items() if key[1] == share})[0] for share in shares]
        lines.append(f"| {arm} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    lines += [
        "",
        "What is chosen from the same evaluations: the best seen (above), the cheapest that does not differ significantly",
        "from it, or the best with the baselines evaluated beside. Regret against that of the best seen, on these supernets;",
        "FLOPs against the limit.",
        "",
        "| | cheapest tied: regret | FLOPs of the best | of the cheapest tied | with baselines: regret |",
        "|---" * 5 + "|",
    ]
    for arm in record["arms"]:
        own = [row for row in rows if row["arm"] == arm]
        best = regrets(rows, arm)
        cells = [in_words(difference(regrets(rows, arm, pick), best, SEED), "+") for pick in ("cheapest", "with baselines")]
        used = [f"{100 * statistics.mean(row[name] for row in own):.0f} %" for name in ("best flops", "cheapest flops")]
        lines.append(f"| {arm} | {cells[0]} | {used[0]} | {used[1]} | {cells[1]} |")
    return "\n".join([*lines, "", f"Command: `{record['command']}`; version {record['version']}.", ""])


# --- figure ------------------------------------------------------------------------------------------------------

LABEL, PANEL, GAP, ROW, TOP = 250, 250, 40, 26, 60  # pixels


def figure(record: Mapping[str, Any]) -> str:
    """An SVG of three panels: regret, and the differences against random and against the most expensive in the budget."""
    rows = record["rows"]
    arms = list(dict.fromkeys([*record["arms"], *(row["arm"] for row in rows if row["arm"] != "one drawn")]))  # far to the right
    panels = [("regret, points", {arm: interval(regrets(rows, arm), SEED) for arm in arms})]
    for other in ("random", "most expensive in the budget"):
        pairs = {arm: difference(regrets(rows, arm), regrets(rows, other), SEED) for arm in arms if arm != other}
        panels.append((f"less (left) or more than {other}", pairs))
    height, width = TOP + ROW * len(arms) + 40, LABEL + len(panels) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="12" y="24" font-size="15">Regret of searches: on {len(record["supernets"])} supernets, 95 % intervals '
        "over seeds; blue: the interval leaves 0 out</text>",
    ]
    for index, arm in enumerate(arms):
        parts.append(f'<text x="{LABEL - 12}" y="{TOP + ROW * index + 19}" text-anchor="end">{arm}</text>')
    for number, (title, found) in enumerate(panels):
        parts += panel(title, found, arms, LABEL + number * (PANEL + GAP))
    return "\n".join([*parts, "</svg>", ""])


def panel(title: str, found: Mapping[str, Interval], arms: Sequence[str], left: float) -> list[str]:
    """Dots with whiskers, one row per arm, around a line at 0."""
    ends = [value for spread in found.values() for value in spread if value == value]  # nan has no place
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = 0.06 * (high - low or 1.0)
    low, high = low - room, high + room

    def place(value: float) -> float:
        return left + PANEL * (value - low) / (high - low)

    bottom = TOP + ROW * len(arms) + 6
    lines = [
        f'<text x="{left}" y="{TOP - 10}" fill="#444">{title}</text>',
        f'<line x1="{place(0):.1f}" y1="{TOP}" x2="{place(0):.1f}" y2="{bottom}" stroke="#999"/>',
    ]
    step = next(size for size in (0.1, 0.2, 0.5, 1, 2, 5, 10, 100) if (high - low) / size <= 6)
    for tick in (step * k for k in range(int(low / step) - 1, int(high / step) + 2)):
        if low <= tick <= high:
            lines.append(f'<text x="{place(tick):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#444">{tick:.1f}</text>')
    for index, arm in enumerate(arms):
        if arm not in found:
            continue
        y = TOP + ROW * index + 14
        mean, lower, upper = found[arm]
        colour = "#444" if lower <= 0 <= upper else "#0a6ebd"
        if lower == lower:
            ends_of = f'x1="{place(lower):.1f}" x2="{place(upper):.1f}"'
            lines.append(f'<line {ends_of} y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<circle cx="{place(mean):.1f}" cy="{y}" r="4" fill="{colour}"/>')
    return lines
