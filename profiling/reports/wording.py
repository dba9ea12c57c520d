"""Numbers as a reader may take them: no more digits than their interval supports (`decimals`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoformer.cost import show
from autoformer.metric import WORDS, decimals, metric_from, percent, percent_value

DIGEST_DIGITS = 12
MOST_DIGITS = 3  # of a latency; drift within one measurement is often larger than the interval of the median


def score_text(score: Mapping[str, Any]) -> str:
    """A score in its JSON form with its interval."""
    return percent(score["value"], score["low"], score["high"])


def capital(words: str) -> str:
    """`words` as a sentence begins: `Balanced accuracy`."""
    return words[:1].upper() + words[1:]


def latency_decimals(value_ms: float, low_ms: float | None, high_ms: float | None) -> int:
    """Decimal places for milliseconds; two digits in all where nothing says how sure the value is."""
    most = MOST_DIGITS - 1 - math.floor(math.log10(value_ms))
    if low_ms is None or high_ms is None:
        return max(0, most - 1)
    return max(0, most if high_ms <= low_ms else min(most, decimals((high_ms - low_ms) / 2)))


def latency_text(stats: Mapping[str, Any]) -> str:
    """The median with its interval: `0.351 ms [0.349, 0.355]`. `stats` has p50_ms, p50_low_ms and p50_high_ms."""
    value, low, high = stats["p50_ms"], stats["p50_low_ms"], stats["p50_high_ms"]
    places = latency_decimals(value, low, high)
    if low is None or high is None:
        return f"{value:.{places}f} ms [too few runs for an interval]"
    return f"{value:.{places}f} ms [{low:.{places}f}, {high:.{places}f}]"


def how_words(measurement: Mapping[str, Any]) -> str:
    """How something was measured, from the JSON form: backend, precision, batch and threads."""
    threads = measurement["threads"]
    words = f"{measurement['backend']}, {measurement['precision']}, batch {measurement['batch']}"
    return words + ("" if threads is None else f", {threads} thread{'' if threads == 1 else 's'}")


def change(value: float, reference: float) -> str:
    """By how much `value` differs from `reference`, relative, two digits: `+3.2 %`."""
    return f"{100 * (value / reference - 1):+.2g} %"


def duration(seconds: float) -> str:
    """Time as people say it: 0.4 s, 38 s, 4 min 20 s, 3 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def file_size(num_bytes: int) -> str:
    """Bytes as people write them: 812 B, 640 kB, 23.1 MB."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    if num_bytes < 999_500:
        return f"{num_bytes / 1e3:.3g} kB"
    return f"{num_bytes / 1e6:.4g} MB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.3g} MB"


def interval(score: Mapping[str, Any]) -> str:
    """The interval of a score: `96.6 to 99.0 %`."""
    low = percent_value(score["low"], score["low"], score["high"])[:-2]
    return f"{low} to {percent_value(score['high'], score['low'], score['high'])}"


def latency_interval(stats: Mapping[str, Any]) -> str:
    """The interval of a median: `95 % interval 0.349 to 0.355 ms`."""
    low, high = stats["p50_low_ms"], stats["p50_high_ms"]
    if low is None or high is None:
        return "too few runs for an interval"
    places = latency_decimals(stats["p50_ms"], low, high)
    return f"95 % interval {low:.{places}f} to {high:.{places}f} ms"


def limit_words(limit: Mapping[str, Any]) -> str:
    """A limit in short: `params ≤ 80% (210.4k)`."""
    sign = "≤" if limit["limit"].startswith("max") else "≥"
    name = {"params": "parameters", "flops": "FLOPs", "latency_ms": "latency"}[limit["measure"]]
    value = shown_value(limit["measure"], limit["value"])
    stated = limit["stated"]
    return f"{name} {sign} {value}" + (f" ({stated})" if stated and "%" in stated else "")


def shown_value(measure: str, value: float) -> str:
    """A limit or a count with four digits."""
    return f"{value:.4g} ms" if measure == "latency_ms" else show(measure, value)


def times(count: int) -> str:
    """How often: never, once, 4 times."""
    return {0: "never", 1: "once"}.get(count, f"{count} times")


def number_of(count: int, thing: str) -> str:
    """So many things of a regular plural: 1 epoch, 3 epochs."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def shortened(names: Sequence[str], letters: int) -> list[str]:
    """The names, long ones with an ellipsis in their middle; those that are alike then get a number."""
    taken, found = {name for name in names if len(name) <= letters}, list[str]()
    for name in names:
        own, number = name, 1
        if len(name) > letters:
            own = cut = f"{name[: letters - letters // 2 - 1]}…{name[-(letters // 2) :]}"
            while own in taken:
                number += 1
                own = f"{cut} ({number})"
            taken.add(own)
        found.append(own)
    return found


def short_source(source: str) -> str:
    """The last part of where the data come from: `flowers` of `/data/flowers`."""
    return Path(source).name or source


def device_words(device: Mapping[str, Any]) -> str:
    """The machine in a few words."""
    gpus = [gpu["name"] for gpu in device["gpus"]]
    cores = f"{device['cores']} core{'' if device['cores'] == 1 else 's'}"
    return ", ".join([device["jetson"] or device["cpu"], cores, *gpus])


def words_of(report: Mapping[str, Any]) -> str:
    """The run's metric as people say it."""
    return WORDS[metric_from(report["metric"])]


def readings_words(report: Mapping[str, Any]) -> str:
    """How often the test part was read, for networks of this run and of all that lie beside it."""
    readings = report["test_readings"]
    text = f"test part {readings['split'][:DIGEST_DIGITS]} was read {times(readings['this_run'])} for this run's networks"
    if readings["runs"] > 1:
        text += f", {times(readings['all_runs'])} for those of the {readings['runs']} runs in this place"
    if count := len(readings["damaged"]):
        names = ", ".join(readings["damaged"][:3]) + (f" and {count - 3} more" if count > 3 else "")
        text += f"; not counted, because the ledger cannot be read: {names}"
    return text
