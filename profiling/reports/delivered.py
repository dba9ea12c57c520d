"""What a run delivered: which file to ship, all files, on which machine and in what time; and what other target devices found
about its bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer.cost import use_words
from autoformer.export.engines.tensorrt_versions import PRODUCTS
from autoformer.export.manifest import Artefact
from autoformer.metric import WORDS, metric_from, paired_difference
from autoformer.profiling.kits.board_results import BoardResult
from autoformer.profiling.measuring.measure import Measurement, device_name
from autoformer.profiling.measuring.verdict import INVALID, UNSTABLE
from autoformer.profiling.profiles.shipping import ExportedFile, file_to_ship
from autoformer.profiling.reports import budget
from autoformer.profiling.reports.blocks import Section, Table
from autoformer.profiling.reports.judged import never_right
from autoformer.profiling.reports.run_folder import FP32, Run
from autoformer.profiling.reports.wording import (
    DIGEST_DIGITS,
    capital,
    duration,
    file_size,
    latency_decimals,
    latency_text,
    score_text,
)
from autoformer.records import to_json

STEPS = (
    "latency table", "parent", "train", "search", "latency in the loop", "race", "extract", "finetune", "export", "profile",
    "test",
)  # fmt: skip
EXACT = "the ONNX fp32 file"  # whose worst mistakes have pictures
LIMITED = {"max_params": "params", "max_flops": "FLOPs", "max_latency_ms": "latency"}  # upper limits in words
NOT_INSTALLED = "not installed"  # what this machine cannot have is nothing to worry about
ENGINE = ("built for this GPU", "an engine runs on this GPU alone; the bundle's program builds it on the device")
AHEAD = (
    "built, not run",
    "it was built ahead of time for GPUs of other machines; the bundle's program verifies and times it there",
)


# --- which file to ship --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """An exported or rejected file, with its measurement on one backend of the device that the limits are about."""

    artefact: Artefact
    name: str
    taken: Measurement | None


@dataclass(frozen=True)
class Judged:
    """Answers to the test images, and whose they are."""

    who: str
    predictions: NDArray[np.int64]
    otherwise: int | None  # to so many images the fp32 file has another answer; None: it is that file


def ship_values(run: Run) -> dict[str, Any]:
    """Which file to ship and why, and every file with its numbers; JSON.

    Times are of the device and batch of the measurement that the report's first lines show: that of the limit on latency.
    """
    main = budget.main_measurement(run)
    rows = list(_rows(run, main))
    files = [_exported(run, row) for row in rows]
    device = "this CPU" if main.backend.endswith("-cpu") else "this GPU"
    found = file_to_ship(files, device)
    values = [
        _values(run, row, file, found.words[place], found.reasons[place])
        for place, (row, file) in enumerate(zip(rows, files, strict=True))
    ]
    shipped = None if found.place is None else values[found.place]
    likely = None if found.likely is None else values[found.likely]
    return {
        "file": shipped and shipped["file"],
        "name": shipped and shipped["name"],
        "likely": likely and likely["name"],
        "sentence": _ship_sentence(run, shipped, likely, found.reason),
        "why": f"{capital(found.reason)}." if shipped else "",
        "device": device_name(main.device, main.backend, main.threads),
        "batch": main.batch,
        "files": values,
    }


def judged_as(run: Run, file: str | None) -> Judged:
    """Whose answers to the test images stand for what is shipped: those of this file, or where it has none of the fp32 file.

    `file` is its path in the run.
    """
    name = None if file is None else Path(file).name
    artefacts = {_key(artefact): artefact for artefact in run.manifest.artefacts}
    key = next((key for key, artefact in artefacts.items() if artefact.file == name and key in run.predictions), FP32)
    exact, found = run.predictions[FP32], run.predictions[key]
    who = f"the {label(artefacts[key])} file" if key in artefacts else EXACT
    return Judged(who, found, None if key == FP32 else int((found != exact).sum()))


def _rows(run: Run, main: Measurement) -> list[_Row]:
    """The files that were exported or rejected, once for each backend that ran them as `main` was run."""
    where, found = (device_name(main.device, main.backend, main.threads), main.batch), []
    for artefact in run.manifest.artefacts:
        if artefact.status == "skipped":
            continue
        taken = [
            one
            for one in run.profile.measurements
            if one.name == f"{artefact.file} ({one.backend})"
            and (device_name(one.device, one.backend, one.threads), one.batch) == where
        ]
        several, timed = len(taken) > 1, list[Measurement | None](taken)
        for one in timed or [None]:
            name = label(artefact) + (f", {one.backend}" if several and one is not None else "")
            found.append(_Row(artefact, name, one))
    return found


def _exported(run: Run, row: _Row) -> ExportedFile:
    """What the rule is asked about."""
    artefact, taken, key = row.artefact, row.taken, _key(row.artefact)
    stats = None if taken is None else taken.stats
    against = None if not artefact.is_engine else AHEAD if artefact.status == "built" else ENGINE
    if artefact.file is None:
        against = (artefact.status, artefact.reason)
    tested = key in run.predictions
    compared = tested and key != FP32
    return ExportedFile(
        name=row.name,
        precision=artefact.precision,
        against=against,
        tested=tested,
        difference=paired_difference(run.predictions[FP32], run.predictions[key], run.labels, run.metric) if compared else None,
        p50_ms=None if stats is None else stats.p50_ms,
        low_ms=None if stats is None else stats.p50_low_ms,
        high_ms=None if stats is None else stats.p50_high_ms,
        verdict=None if taken is None else taken.verdict,
        limits=budget.use_by(run, taken),
    )


def _key(artefact: Artefact) -> str:
    """The name of a file in test.json."""
    return f"{artefact.format} {artefact.precision}"


def _values(run: Run, row: _Row, file: ExportedFile, word: str, reason: str) -> dict[str, Any]:
    artefact, taken, key = row.artefact, row.taken, _key(row.artefact)
    return {
        "name": row.name,
        "file": None if artefact.file is None else f"export/{artefact.file}",
        "precision": artefact.precision,
        "bytes": artefact.bytes,
        "score": run.score(key).to_dict() if key in run.predictions else None,
        "difference": to_json(file.difference),
        "measured_as": taken and taken.name,
        "p50_ms": file.p50_ms,
        "p50_low_ms": file.low_ms,
        "p50_high_ms": file.high_ms,
        "images_per_s": taken and taken.images_per_s,
        "limits": to_json(dict(file.limits)),
        "verdict": word,
        "why": reason,
    }


def _ship_sentence(run: Run, shipped: Mapping[str, Any] | None, likely: Mapping[str, Any] | None, reason: str) -> str:
    if shipped is None:
        again = "; the same `autoformer run` with --measure-again times them anew" if _is_unsure(likely) else ""
        open_yet = "" if likely is None else f" If these times stand, it is {likely['file']}{again}."
        return f"Ship none of these files yet: {reason}.{open_yet}"
    latency = shipped["limits"].get("max_latency_ms")
    share = "" if latency is None else f", {use_words('max_latency_ms', latency['share'])} used"
    return f"Ship {shipped['file']}: {WORDS[run.metric]} {score_text(shipped['score'])}, {latency_text(shipped)}{share}."


def waits_for_times(report: Mapping[str, Any]) -> bool:
    """Whether there is a file that would be shipped if its time were measured surely."""
    ship = report["ship"]
    return ship["file"] is None and _is_unsure(next((one for one in ship["files"] if one["name"] == ship["likely"]), None))


def _is_unsure(likely: Mapping[str, Any] | None) -> bool:
    return likely is not None and likely["verdict"] in (UNSTABLE, INVALID)


def ship_reasons(report: Mapping[str, Any]) -> list[str]:
    """What to know before shipping, why the file to ship is the one, and what stands against the others, a sentence each."""
    ship = report["ship"]
    others = [f"{one['name']}: {one['why']}." for one in ship["files"] if one["name"] != ship["name"]]
    caution = never_right(report["judged"]) if "judged" in report else None  # not in reports of earlier versions
    return [*filter(None, (caution, ship["why"])), *others]


def ship_table(report: Mapping[str, Any]) -> Table:
    """Every file with what decides: size, score, time, use of the limits, verdict."""
    ship, rows = report["ship"], []
    limited = {name: words for name, words in LIMITED.items() if any(name in one["limits"] for one in ship["files"])}
    for one in ship["files"]:
        rows.append(
            (
                one["file"] or one["name"],
                one["precision"],
                "–" if one["bytes"] is None else file_size(one["bytes"]),
                "–" if one["score"] is None else score_text(one["score"]),
                "–" if one["p50_ms"] is None else _milliseconds(one),
                "–" if one["images_per_s"] is None else f"{one['images_per_s']:.4g}",
                *(_used(one, name) for name in limited),
                one["verdict"],
            )
        )
    columns = ["file", "precision", "size", f"{WORDS[metric_from(report['metric'])]} [95 %]", "p50, ms", "images/s"]
    columns += [*(f"{words} limit" for words in limited.values()), "verdict"]
    each = "one image" if ship["batch"] == 1 else f"{ship['batch']} images"
    return Table(
        title="The files",
        columns=tuple(columns),
        rows=tuple(rows),
        numbers=tuple(range(2, len(columns) - 1)),
        note=f"p50: the median time of {each} on {ship['device']}, in this session; in another the same file may be some per "
        "cent faster or slower. Limits: the share that is used, of latency by each file's own time.",
    )


def _milliseconds(one: Mapping[str, Any]) -> str:
    return f"{one['p50_ms']:.{latency_decimals(one['p50_ms'], one['p50_low_ms'], one['p50_high_ms'])}f}"


def _used(one: Mapping[str, Any], limit: str) -> str:
    share = one["limits"][limit]["share"] if limit in one["limits"] else None
    return "–" if share is None else f"{100 * share:.0f} %"


# --- files ---------------------------------------------------------------------------------------------------------


def file_values(run: Run) -> dict[str, Any]:
    """Where everything lies, relative to the run's folder."""
    files: dict[str, Any] = {
        "supernet": {"path": "supernet"},
        "search": {"path": "search/search.json"},
        **({"race": {"path": "race/race.json"}} if run.race is not None else {}),
        **({"parent, finetuned": {"path": "parent"}} if (run.folder / "parent").is_dir() else {}),
        **({"network as inherited": {"path": "subnet"}} if run.inherited else {}),
        "network finetuned": {"path": "finetuned"},
        "latency samples": {"path": "latency.json"},
        **({"layers": {"path": "layers.json"}} if run.layers is not None else {}),
        "report": {"path": "report.html"},
        "recipe": {"path": "recipe.yaml"},
    }
    for artefact in run.manifest.artefacts:
        if artefact.file is not None:
            files[label(artefact)] = {
                "path": f"export/{artefact.file}",
                "bytes": artefact.bytes,
                "sha256": artefact.sha256,
                "proof": artefact.reason,
            }
    return files


def label(artefact: Artefact) -> str:
    """An artefact in words: `ONNX int8`."""
    names = {"onnx": "ONNX", **{name: product.title for name, product in PRODUCTS.items()}}
    return f"{names.get(artefact.format, artefact.format)} {artefact.precision}"


# --- words ---------------------------------------------------------------------------------------------------------


def section(report: Mapping[str, Any]) -> Section:
    """The exported files, those that are missing, and what else lies in the folder."""
    tables = (export_table(report), skipped_table(report), folder_table(report))
    return Section(name="files", title="What was delivered", tables=tables)


def gaps_section(rows: Sequence[tuple[str, ...]]) -> Section:
    """What has no number, and why: (what, why), or with where it would have come from before."""
    columns = ("what", "why") if not rows or len(rows[0]) == 2 else ("source", "what", "why")
    gaps = Table(title="Not in this report", columns=columns, rows=tuple(rows))
    return Section(name="not-measured", title="What was not measured", tables=(gaps,))


def machine_section(report: Mapping[str, Any]) -> Section:
    """The machine, its software, and how long the steps took on it."""
    tables = (machine_table(report["device"], report["version"]), step_table(report))
    return Section(name="machine", title="Machine, versions, time", tables=tables)


def export_table(report: Mapping[str, Any]) -> Table:
    """The exported files, each with its comparison."""
    rows = tuple(
        (name, file["path"], file_size(file["bytes"]), file["sha256"][:DIGEST_DIGITS], file["proof"])
        for name, file in report["files"].items()
        if "sha256" in file
    )
    return Table(
        title="Exported files",
        columns=("what", "where in this folder", "size", "SHA-256", "compared with its source"),
        rows=rows,
        numbers=(2,),
        note="Every file was compared with the network on images of the search part before it counted as exported; an engine "
        "that was built ahead of time is compared on its device.",
    )


def folder_table(report: Mapping[str, Any]) -> Table:
    """What else lies in the run's folder."""
    rows = tuple((name, file["path"]) for name, file in report["files"].items() if "sha256" not in file)
    return Table(title="Also in this folder", columns=("what", "where"), rows=rows)


def skipped_table(report: Mapping[str, Any]) -> Table:
    """Artefacts that were asked for and are not there."""
    rows = [(item["what"], status_words(item["status"]), item["reason"]) for item in report["skipped"]]
    return Table(
        title="Not delivered", columns=("what", "status", "reason"), rows=tuple(rows) or (("nothing", "–", "–"),)
    )  # fmt: skip


def status_words(status: str) -> str:
    """What became of an artefact that is not there: this machine lacks what makes it, or it was rejected."""
    return NOT_INSTALLED if status == "skipped" else status


def machine_table(device: Mapping[str, Any], version: str) -> Table:
    """The machine and its software, from the JSON form of `DeviceFacts`; `version` is this package's."""
    absent = "not reported by this machine"
    facts = [
        ("processor", device["cpu"]),
        ("cores in use", str(device["cores"])),
        ("instructions", ", ".join(device["isa"]) or absent),
        ("frequency governor", device["governor"] or absent),
        ("load before the run", absent if device["load_average"] is None else f"{device['load_average']:.2g}"),
        ("memory", absent if device["memory_mib"] is None else f"{device['memory_mib'] / 1024:.3g} GiB"),
        ("GPU", "; ".join(f"{gpu['name']}, driver {gpu['driver']}, compute capability {gpu['compute_capability']}"
                          for gpu in device["gpus"]) or "none found"),
        *([("Jetson", f"{device['jetson']}; {device['l4t']}")] if device["jetson"] else []),
        *([("power mode", device["power_mode"])] if device["power_mode"] else []),
        *([("clocks", "locked" if device["clocks_locked"] else "free to move")] if device["clocks_locked"] is not None else []),
        *([("temperature before", f"{device['cpu_temperature_c']:.3g} °C")] if device["cpu_temperature_c"] is not None else []),
        *([("container", device["container"])] if device["container"] else []),
        *((name, value) for name, value in sorted(device["thread_settings"].items())),
        ("operating system", device["operating_system"]),
        ("Python", device["python"]),
        ("autoformer-toolchain", version),
        *((name, version) for name, version in sorted(device["versions"].items()) if name != "autoformer-toolchain"),
    ]  # fmt: skip
    return Table(title="Machine and versions", columns=("", ""), rows=tuple(facts))


def step_table(report: Mapping[str, Any]) -> Table:
    """Time per step."""
    steps = report["steps"]
    order = [name for name in STEPS if name in steps] + [name for name in steps if name not in STEPS]
    rows = [(name, duration(steps[name])) for name in order]
    rows.append(("all steps", duration(sum(report["steps"].values()))))
    return Table(
        title="Time per step", columns=("step", "time"), rows=tuple(rows), numbers=(1,),
        note="Summed over all resumptions of the run.",
    )  # fmt: skip


# --- on other devices ----------------------------------------------------------------------------------------------


def board_values(results: Sequence[BoardResult]) -> list[dict[str, Any]]:
    """One entry for each imported result, in the order of their dates."""
    return [
        {
            "command": result.command,
            "bundle": result.bundle,
            "created": result.created,
            "device": result.device.to_dict(),
            "ran_on": [{"runtime": row.runtime, "device": row.device} for row in result.ran_on()],
            "latency": {
                name: {
                    "backend": taken.backend, "precision": taken.precision, "batch": taken.batch, **taken.stats.to_dict(),
                    "settings": dict(taken.settings), "verdict": taken.verdict.level, "reasons": list(taken.verdict.reasons),
                }
                for name, taken in result.measurements.items()
            },
            "artefacts": {name: dict(found) for name, found in result.artefacts.items()},
            "budget": {name: dict(found) for name, found in result.budget.items()},
            "not_measured": dict(result.not_measured),
        }
        for result in results
    ]  # fmt: skip


def board_sections(report: Mapping[str, Any]) -> list[Section]:
    """What other devices found; nothing where no result was imported."""
    if not report["boards"]:
        return []
    text = ("The program of the bundle found this on these devices; autoformer report import took it in.",)
    return [Section(name="boards", title="On other devices", text=text, tables=board_tables(report["boards"]))]


def board_tables(boards: Sequence[Mapping[str, Any]]) -> tuple[Table, ...]:
    """Latencies, and what was verified, each named with its device."""
    timed, verified = list[tuple[str, ...]](), list[tuple[str, ...]]()
    for board in boards:
        where = "; ".join(f"{row['device']}, {row['runtime']}" for row in board["ran_on"])
        day = str(board["created"])[:10]
        for name, found in board["latency"].items():
            timed.append((where, f"{name}, batch {found['batch']}", latency_text(found), found["verdict"], day))
        for name, found in board["artefacts"].items():
            verified.append((where, name, str(found.get("status")), str(found.get("reason")), day))
        for name, found in board["budget"].items():
            verified.append((where, f"limit {name}", str(found.get("status")), _limit_words(name, found), day))
        for name, reason in board["not_measured"].items():
            verified.append((where, name, "not measured", reason, day))
    tables = []
    if timed:
        tables.append(
            Table(title="Latency there", columns=("device", "file", "p50 [95 % interval]", "verdict", "date"), rows=tuple(timed))
        )
    if verified:
        tables.append(Table(title="Verified there", columns=("device", "what", "status", "why", "date"), rows=tuple(verified)))
    return tuple(tables)


def _limit_words(name: str, found: Mapping[str, Any]) -> str:
    if found.get("reason"):
        return str(found["reason"])
    value = found.get("median_ms", found.get("value"))
    shown = f"{value:.4g}" if isinstance(value, int | float) else "unknown"
    limit = found.get("limit")
    known = name.startswith("max_") and isinstance(value, int | float) and isinstance(limit, int | float)
    used = f", {100 * value / limit:.0f} % used" if known and limit else ""
    return f"{shown}, limit {limit}{used}" + (f", of {found['measured']}" if found.get("measured") else "")
