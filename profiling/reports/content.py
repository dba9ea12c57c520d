"""What a report says, as values for programs: the content of `report.json`. The page is made from it.

Every score has its interval, and every latency its measurement conditions.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any

from autoformer.export.judging.per_class import counted
from autoformer.profiling.kits.board_results import results_of
from autoformer.profiling.measuring.order_statistics import MIN_SAMPLES_P99
from autoformer.profiling.measuring.verdict import INCONCLUSIVE
from autoformer.profiling.reports import judged, latency, latency_table, race, search
from autoformer.profiling.reports.budget import limits
from autoformer.profiling.reports.delivered import board_values, file_values, judged_as, label, ship_values
from autoformer.profiling.reports.run_folder import Run
from autoformer.profiling.reports.scores import int8_disagreement, int8_values, parent_difference, reading_values
from autoformer.records import to_json

FORMAT = "autoformer/report/3"


def content(run: Run) -> dict[str, Any]:
    """Everything of the report that is a value; JSON. The same run gives the same content."""
    delivered = run.delivered
    shipped = ship_values(run)
    asked = judged_as(run, shipped["file"])
    return {
        "format": FORMAT,
        "version": run.version,
        "seed": run.seed,
        "source": run.source,
        "metric": run.metric,
        "data": {
            "layout": run.layout,
            "classes": list(run.classes),
            "parts": {name: asdict(part) for name, part in run.parts.items()},
            "preprocessing": run.preprocessing,
        },
        "chosen": {
            "architecture": to_json(delivered.architecture),
            "slug": delivered.name,
            "words": delivered.words,
            "params": delivered.params,
            "flops": delivered.flops,
            "predicted_latency_ms": delivered.predicted_ms,
            "search_score": to_json(delivered.search_score),
            "weights_digest": run.manifest.weights_digest,
        },
        "ship": shipped,
        "budget": limits(run),
        "latency_qualification": None if run.measurement_conditions is None else asdict(run.measurement_conditions),
        "test": {name: run.score(name).to_dict() for name in run.predictions},
        "judged": {
            **counted(run.labels, asked.predictions, run.classes),
            "who": asked.who,
            "fp32_otherwise": asked.otherwise,
            "mistakes": judged.mistake_values(run.mistakes or (), run.classes),
        },
        "int8": int8_values(run),
        "int8_disagreement": int8_disagreement(run),
        **({"parent_difference": found} if (found := parent_difference(run)) is not None else {}),
        "candidates": len(run.search.candidates),
        "tied": len(run.search.tied),
        "search": search.values(run),
        **({"race": race.values(run.race)} if run.race is not None else {}),
        "training": {
            "supernet": to_json(run.supernet_history),
            "finetune": to_json(run.finetune_history),
        },
        "latency": {measurement.name: latency.values(run, measurement) for measurement in run.profile.measurements},
        "reference": latency.values(run, run.profile.reference),
        "latency_measured": run.profile.created,
        "latency_attempt": run.profile.attempt,
        "latency_table": latency_table.values(run),
        "latency_loop": latency_table.loop_content(run.answer),
        "boards": board_values(results_of(run.folder)),
        "layers": run.layers and run.layers.to_dict(),
        "skipped": [
            {"what": label(artefact), "status": artefact.status, "reason": artefact.reason}
            for artefact in run.manifest.artefacts
            if artefact.file is None
        ],
        "not_measured": not_measured(run),
        "test_readings": reading_values(run),
        "files": file_values(run),
        "steps": run.seconds,
        "device": run.device.to_dict(),
        "recipe": run.recipe,
        "command": command(run),
    }


def not_measured(run: Run) -> list[dict[str, str]]:
    """What this report does not show, and why."""
    of_manifest = {f"{artefact.status}: {artefact.reason}" for artefact in run.manifest.artefacts if artefact.file is None}
    missing = [(label(a), f"{a.status}: {a.reason}") for a in run.manifest.artefacts if a.file is None]
    missing += [
        (f"{item.name} on {item.backend}", item.reason) for item in run.profile.not_measured if item.reason not in of_manifest
    ]
    if run.manifest.find("onnx", "int8") is None:
        missing.append(("ONNX int8", int8_values(run)["reason"]))
    for limit in limits(run):
        if limit["met"] == INCONCLUSIVE:
            missing.append((f"Whether {limit['limit']} is within budget", limit["reason"]))
    for measurement in run.profile.measurements:
        if measurement.stats.p99_ms is None:
            missing.append((f"p99 of {measurement.name}", f"{measurement.stats.n} runs, {MIN_SAMPLES_P99} needed"))
    batches = sorted({measurement.batch for measurement in run.profile.measurements})
    missing += [
        (
            "Latency of the other candidates",
            f"only {_timed_words(run)} exported and timed"
            + ("; theirs are predictions" if run.search.chosen.cost.latency_ms is not None else ""),
        ),
        ("Other batch sizes", f"runs took {' or '.join(map(str, batches))} image{'s' if batches != [1] else ''} at a time"),
        ("Reading and resizing of images", "a timed run starts with a prepared tensor in memory"),
        ("Energy, memory, the first inference", "a run leaves them out; `profile run --energy --cold-start` measures them"),
        ("Spread over training seeds", f"this is one run, with seed {run.seed}; intervals are about the images only"),
        ("Images from elsewhere", "the test part comes from the same source as the train part"),
    ]
    return [{"what": what, "reason": reason} for what, reason in missing]


def _timed_words(run: Run) -> str:
    """Which networks were timed, as the beginning of a sentence."""
    rounds = () if run.answer is None else run.answer.rounds
    networks = {network.architecture.slug for taken in rounds for network in taken.networks} | {run.delivered.name}
    if run.race is not None:
        started = [one.entrant for one in run.race.entrants] + [one.entrant for one in run.race.refused if one.entrant]
        networks |= {entrant.network for entrant in started if entrant.timing is not None}
    first = "the chosen network" if run.race is None else "the delivered network"
    return f"{first} was" if len(networks) == 1 else f"{first} and {len(networks) - 1} others were"


def command(run: Run) -> str:
    """The command that makes the run again, with the latencies of its table where it measured one."""
    words = ["autoformer", "run", str(run.folder / "recipe.yaml"), "--out", f"{run.folder}-again"]
    if run.table is not None and run.recipe["profile"]["table"] is None:
        words += ["--set", f"profile.table={run.folder / 'latency_table.json'}"]
    return shlex.join(words)
