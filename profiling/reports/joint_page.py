"""The report of several runs, exports and profiles as a page: badges, tables and figures from the joint content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoformer.cost import show
from autoformer.files import write_folder
from autoformer.metric import percent
from autoformer.profiling.measuring.gpu_sensors import GpuReading
from autoformer.profiling.measuring.sensors import Reading
from autoformer.profiling.reports import page
from autoformer.profiling.reports.blocks import (
    SERIES,
    TONES,
    Figure,
    Headline,
    Page,
    Plot,
    Section,
    Table,
    common_layout,
    one_view,
    plain,
)
from autoformer.profiling.reports.delivered import gaps_section, machine_table
from autoformer.profiling.reports.joint import UNVERIFIED, Joined, join_sources, joint_content
from autoformer.profiling.reports.latency import blocks_figure, distribution_figure, layer_section, timeline_figure
from autoformer.profiling.reports.wording import change, how_words, latency_text

MOST_CURVES = 12  # in one figure


def _of_gpu(value: Callable[[GpuReading], float | None]) -> Callable[[Reading], float | None]:
    return lambda reading: None if reading.gpu is None else value(reading.gpu)


SENSED: tuple[tuple[str, str, Callable[[Reading], float | None]], ...] = (
    ("GPU clock, MHz", "y", _of_gpu(lambda gpu: gpu.clock_mhz)),
    ("CPU clock, MHz", "y", lambda reading: reading.cpu_clock_mhz),
    ("GPU, °C", "y2", _of_gpu(lambda gpu: gpu.temperature_c)),
    ("CPU, °C", "y2", lambda reading: reading.cpu_temperature_c),
    ("power, W", "y3", _of_gpu(lambda gpu: gpu.power_w)),
)


def build_joint_report(paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """Writes report.html, report.md and report.json into the new folder `out`; gives the JSON.

    Raises `CheckpointError` for a path that is not a source of a report, and `OutputExistsError` when `out` exists.
    """
    joined = join_sources(paths)
    report = joint_content(joined)
    whole = Page(headline=headline(report), sections=sections(report), figures=tuple(figures(joined)), values=report)
    with write_folder(out) as folder:
        for suffix in page.SUFFIXES:
            page.save(whole, folder / f"report{suffix}")
    return report


def headline(report: Mapping[str, Any]) -> Headline:
    """The first screen: how much is here, and how many of the latencies are to be trusted."""
    taken = report["measurements"]
    levels = Counter(one["verdict"] for one in taken)
    verified = sum(one["score"] != UNVERIFIED for one in taken)
    verdicts = [(f"{count} {level}", TONES[level]) for level, count in levels.items()]
    verdicts.append(
        (f"{len(taken) - verified} of {len(taken)} latencies unverified", "good" if verified == len(taken) else "open")
    )
    if unlocked := sum(one["clocks_locked"] is False and not one["backend"].endswith("-cpu") for one in taken):
        verdicts.append((f"{unlocked} with unlocked clocks", "open"))
    numbers = [
        ("sources", str(len({one["source"] for one in [*report["sources"], *taken, *report["layers"]]})), "runs, exports, files"),
        ("measurements", str(len(taken)), f"{levels.get('VALID', 0)} of them VALID"),
    ]
    fastest = min((one for one in taken if one["verdict"] == "VALID"), key=_per_image_ms, default=None)
    if fastest is not None:
        numbers.append(
            ("least time per image", f"{_per_image_ms(fastest):.3g} ms", f"{fastest['name']}, batch {fastest['batch']}")
        )
    devices = "; ".join(dict.fromkeys(one["device"] for one in taken)) or "no device"
    return Headline(
        title="Measurements side by side", sentence=f"Measured on {devices}.", numbers=tuple(numbers), verdicts=tuple(verdicts)
    )


def sections(report: Mapping[str, Any]) -> tuple[Section, ...]:
    """Everything below. A subject without numbers has no section; it is named under what was not measured."""
    found = []
    if report["sources"]:
        found.append(Section(name="networks", title="Networks", tables=(_source_table(report),)))
    if report["measurements"]:
        text = "Times are of one call, waiting included (wall_ms), or with the copies between host and GPU (e2e_ms). "
        text += "Compare times of one file of `profile run` by themselves, others by the ratio to the reference network."
        found.append(
            Section(
                name="latency", title="Latency and accuracy", text=(text,), tables=(_latency_table(report), _trust_table(report)),
                figures=("latency", "timeline", "clocks"),
            )
        )  # fmt: skip
    if report["predictions"]:
        found.append(Section(name="predictions", title="Predicted against measured", tables=(_prediction_table(report),)))
    found += layer_section(report["layers"], [one["source"] for one in report["layers"]])
    if report["cold_starts"] or report["energy"]:
        tables = (
            *([_cold_table(report)] if report["cold_starts"] else []),
            *([_energy_table(report)] if report["energy"] else []),
        )
        found.append(Section(name="besides", title="Cold start, memory and energy", tables=tables))
    found.append(gaps_section(_missing(report)))
    if report["devices"]:
        tables = tuple(machine_table(device, report["version"]) for device in report["devices"])
        found.append(Section(name="machine", title="Machines and versions", tables=tables))
    return tuple(found)


def _per_image_ms(one: Mapping[str, Any]) -> float:
    return 1000 / float(one["images_per_s"])


def _metric(one: Mapping[str, Any], *names: str) -> str:
    found = next((one["metrics"][name] for name in names if name in one["metrics"]), None)
    return "–" if found is None else latency_text(found)


def _source_table(report: Mapping[str, Any]) -> Table:
    rows = [
        (
            one["source"], one["kind"], one["network"], "–" if one["params"] is None else show("params", one["params"]),
            "–" if one["flops"] is None else show("flops", one["flops"]), one["words"],
        )
        for one in report["sources"]
    ]  # fmt: skip
    columns = ("source", "kind", "network", "params", "FLOPs (multiply-adds)", "what it is")
    return Table(title="What the files describe", columns=columns, rows=tuple(rows), numbers=(3, 4))


def _latency_table(report: Mapping[str, Any]) -> Table:
    rows = []
    for one in report["measurements"]:
        score = one["score"]
        accuracy = UNVERIFIED if score == UNVERIFIED else f"{percent(score['value'], score['low'], score['high'])}"
        wall = one["metrics"].get("wall_ms") or one["metrics"]["e2e_ms"]
        tails = ["–" if wall[name] is None else f"{wall[name]:.3g} ms" for name in ("p90_ms", "p99_ms")]
        how = how_words(one)
        how += "".join(f", {name} {value}" for name, value in one["settings"].items() if (name, value) != ("mode", "eager"))
        times = (_metric(one, "wall_ms", "e2e_ms"), *tails, _metric(one, "gpu_ms"), f"{one['images_per_s']:.4g}")
        rows.append((one["source"], one["name"], how, accuracy, *times, f"{one['ratio_to_reference']:.3g}", one["verdict"]))
    columns = (
        "source", "file", "how", "accuracy", "p50 [95 % interval]", "p90", "p99", "gpu_ms p50", "images/s", "ratio to reference",
        "verdict",
    )  # fmt: skip
    about = dict.fromkeys(one["score"]["words"] for one in report["measurements"] if one["score"] != UNVERIFIED)
    note = f"Accuracy is {'; '.join(about)}. " if about else ""
    note += f"{UNVERIFIED.capitalize()}: nothing here says how accurate the file is that was measured."
    return Table(title="Latency of one call", columns=columns, rows=tuple(rows), numbers=tuple(range(3, 10)), note=note)


def _trust_table(report: Mapping[str, Any]) -> Table:
    rows = []
    for one in report["measurements"]:
        stats = one["metrics"].get("wall_ms") or one["metrics"]["e2e_ms"]
        drift = "–" if stats["drift"] is None else f"{100 * stats['drift']:+.2g} %"
        reasons = "; ".join(one["reasons"]) or "nothing against it"
        rows.append((one["source"], one["name"], str(one["batch"]), str(stats["n"]), drift, str(stats["spikes"]), reasons))
    columns = ("source", "file", "batch", "runs", "drift", "spikes", "against it")
    note = "Nothing is taken out of the runs; a spike is one that took more than twice the median."
    return Table(title="Whether these times can be trusted", columns=columns, rows=tuple(rows), numbers=(2, 3, 4, 5), note=note)


def _prediction_table(report: Mapping[str, Any]) -> Table:
    rows = []
    for one in report["predictions"]:
        known = one["measured_ms"] is not None
        measured = f"{one['measured_ms']:.3g} ms" if known else f"not measured: {one['reason']}"
        error = change(one["predicted_ms"], one["measured_ms"]) if known else "–"
        rows.append((one["source"], one["network"], f"{one['predicted_ms']:.3g} ms", measured, error))
    columns = ("source", "network", "predicted", "measured", "error")
    return Table(
        title="What the latency table predicted, and what was measured", columns=columns, rows=tuple(rows), numbers=(2, 3, 4)
    )


def _cold_table(report: Mapping[str, Any]) -> Table:
    def mib(value: float | None) -> str:
        return "not known" if value is None else f"{value:.1f} MiB"

    rows = [
        (
            one["source"], f"{one['name']} ({one['backend']}, batch {one['batch']})", f"{one['load_ms']:.1f} ms",
            f"{one['first_ms']:.3g} ms", f"{one['warm_ms']:.3g} ms", f"{one['after_idle_ms']:.3g} ms ({one['idle_s']:g} s)",
            mib(one["memory_mib"]), mib(one["gpu_memory_mib"]),
        )
        for one in report["cold_starts"]
    ]  # fmt: skip
    columns = ("source", "file", "loading", "first run", "warm run", "run after a pause", "memory", "GPU memory")
    note = "In a process of its own. Memory is the growth of its peak by loading and running."
    return Table(title="Cold start", columns=columns, rows=tuple(rows), numbers=tuple(range(2, 8)), note=note)


def _energy_table(report: Mapping[str, Any]) -> Table:
    rows = [
        (
            one["source"], one["name"], f"{one['idle_w']:.3g} W", f"{one['load_w']:.3g} W", f"{one['joule_per_run']:.3g} J",
            f"{one['images_per_joule']:.3g}",
        )
        for one in report["energy"]
    ]  # fmt: skip
    columns = ("source", "file", "at rest", "under load", "one call", "images per J")
    return Table(title="Energy", columns=columns, rows=tuple(rows), numbers=(2, 3, 4, 5))


def _missing(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What the sources have no number of, and how to get one."""
    rows: list[tuple[str, ...]] = [(one["source"], one["what"], one["reason"]) for one in report["not_measured"]]
    taken = report["measurements"]
    absent = [("per-layer times", not report["layers"], "profile layers FILE --out FILE.json")]
    absent += [("cold start and memory", not report["cold_starts"], "profile run --cold-start")]
    absent += [("energy", not report["energy"], "profile run --energy (where a sensor shows the power)")]
    absent += [("other batches", len({one["batch"] for one in taken}) < 2, "profile run --sweep")]
    return rows + [("all", what, f"no file here has it; {how} measures it") for what, missing, how in absent if missing]


# --- figures -------------------------------------------------------------------------------------------------------


def figures(joined: Joined) -> list[Figure]:
    """Distribution and timeline of the measurements, clocks and heat while measuring, and time by block."""
    taken = [one.measurement for one in joined.timed][:MOST_CURVES]
    found = [distribution_figure(taken), timeline_figure(taken)] if taken else []
    clocks = clocks_figure(joined)
    blocks = blocks_figure([layers for _, layers in joined.layers])
    return [*found, *([clocks] if clocks else []), *([blocks] if blocks else [])]


def clocks_figure(joined: Joined) -> Figure | None:
    """What the sensors said over the seconds of the measurements; None where they said nothing."""
    traces: list[Plot] = []
    for number, (source, profile) in enumerate(joined.profiles):
        conditions = [taken.conditions for taken in profile.measurements if taken.conditions is not None]
        readings = sorted({reading.seconds: reading for one in conditions for reading in one.readings}.items())
        for name, axis, value in SENSED:
            points = [(seconds, value(reading)) for seconds, reading in readings if value(reading) is not None]
            if points:
                traces.append(
                    {
                        "type": "scatter", "mode": "lines+markers", "name": plain(f"{source}: {name}"), "yaxis": axis,
                        "x": [round(seconds, 2) for seconds, _ in points], "y": [value for _, value in points],
                        "line": {"color": SERIES[number % len(SERIES)]},
                    }
                )  # fmt: skip
    if not traces:
        return None
    layout = common_layout("seconds since the measurement began", "clock, MHz")
    layout["yaxis"]["domain"] = [0.7, 1]
    layout["yaxis2"] = {"title": {"text": "°C"}, "domain": [0.35, 0.65], "anchor": "x"}
    layout["yaxis3"] = {"title": {"text": "W"}, "domain": [0, 0.3], "anchor": "x"}
    caption = "Clocks, temperatures and power as the sensors showed them between the visits of the networks."
    return one_view("clocks", "The machine while measuring", caption, traces, layout)
