"""What a run delivered, on which machine and in what time; and what other target devices found about its bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoformer.export.manifest import Artefact
from autoformer.profiling.kits.board_results import BoardResult
from autoformer.profiling.reports.blocks import Section, Table
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.wording import DIGEST_DIGITS, duration, file_size, latency_text

STEPS = (
    "latency table",
    "parent",
    "train",
    "search",
    "race",
    "extract",
    "finetune",
    "export",
    "profile",
    "test",
)  # in their order


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
    names = {"onnx": "ONNX", "tensorrt": "TensorRT"}
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
        note="Every file was compared with the network on images of the search part before it counted as exported.",
    )


def folder_table(report: Mapping[str, Any]) -> Table:
    """What else lies in the run's folder."""
    rows = tuple((name, file["path"]) for name, file in report["files"].items() if "sha256" not in file)
    return Table(title="Also in this folder", columns=("what", "where"), rows=rows)


def skipped_table(report: Mapping[str, Any]) -> Table:
    """Artefacts that were asked for and are not there."""
    rows = [(item["what"], item["status"], item["reason"]) for item in report["skipped"]]
    return Table(
        title="Not delivered", columns=("what", "status", "reason"), rows=tuple(rows) or (("nothing", "–", "–"),)
    )  # fmt: skip


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
            verified.append((where, f"limit {name}", str(found.get("status")), _limit_words(found), day))
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


def _limit_words(found: Mapping[str, Any]) -> str:
    if found.get("reason"):
        return str(found["reason"])
    value = found.get("median_ms", found.get("value"))
    shown = f"{value:.4g}" if isinstance(value, int | float) else "unknown"
    return f"{shown}, limit {found.get('limit')}" + (f", of {found['measured']}" if found.get("measured") else "")
