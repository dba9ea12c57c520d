"""What exporting costs in accuracy: torch, fp32, fp16 and int8 of finished runs, image by image on their test parts.

    python benchmarks/exported_accuracy.py --runs runs/quickstart runs/colour --out benchmarks/results/exported_accuracy.json

Reads the predictions that `autoformer run` stored when it read the test part once for each file; it runs nothing and reads no
image again. Every file is compared with the torch network and with the fp32 file on the same images (paired), and by class
with the rule that rejects an int8 file. Prints a table for each run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoformer import __version__
from autoformer.export.class_losses import class_losses
from autoformer.files import write_json
from autoformer.metric import WORDS, score, wilson
from autoformer.profiling.reports.run_folder import FINETUNED, FP32, Run

FILES = {FINETUNED: "torch", FP32: "ONNX fp32", "onnx fp16": "ONNX fp16", "onnx int8": "ONNX int8"}
MAX_CLASS_LOSS = 0.05  # the default of an export


def paired(predicted: NDArray[np.int64], other: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, Any]:
    """On how many images two networks name different classes, and on how many of these only one of them is right."""
    different = int((predicted != other).sum())
    low, high = wilson(different / len(labels), len(labels))
    return {
        "different": different,
        "share": different / len(labels),
        "low": low,
        "high": high,
        "only_other_right": int(((other == labels) & (predicted != labels)).sum()),
        "only_this_right": int(((predicted == labels) & (other != labels)).sum()),
    }


def row(run: Run, name: str) -> dict[str, Any]:
    """One file of a run."""
    predicted, fp32 = run.predictions[name], run.predictions[FP32]
    losses = class_losses(fp32.tolist(), predicted.tolist(), run.labels.tolist(), run.manifest.classes, max_loss=MAX_CLASS_LOSS)
    return {
        "file": FILES[name],
        "score": score(predicted, run.labels, run.metric).to_dict(),
        "against_torch": paired(predicted, run.predictions[FINETUNED], run.labels),
        "against_fp32": paired(predicted, fp32, run.labels),
        "by_class_against_fp32": losses.to_dict() | {"words": losses.reason},
    }


def markdown(rows: list[dict[str, Any]], metric: str) -> str:
    """A table of one run."""
    lines = [
        f"| file | {metric}, 95 % interval | another class than torch | another class than fp32, 95 % interval | classes |",
        "|---|---|---|---|---|",
    ]
    for entry in rows:
        found, torch, fp32 = entry["score"], entry["against_torch"], entry["against_fp32"]
        share = f"{100 * fp32['share']:.2f} % [{100 * fp32['low']:.2f}, {100 * fp32['high']:.2f}]"
        lines.append(
            f"| {entry['file']} | {100 * found['value']:.2f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}] "
            f"| {torch['different']} of {found['images']} | {fp32['different']} of {found['images']}, {share} "
            f"| {entry['by_class_against_fp32']['words']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of finished runs")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the record")
    options = parser.parse_args()
    record: dict[str, Any] = {"version": __version__, "runs": {}}
    for folder in options.runs:
        run = Run.load(folder)
        rows = [row(run, name) for name in FILES if name in run.predictions]
        print(f"{folder.name}: {len(run.labels)} test images of {len(run.manifest.classes)} classes\n")
        print(markdown(rows, WORDS[run.metric]), end="\n\n")
        missing = {
            f"{artefact.format} {artefact.precision}": f"{artefact.status}: {artefact.reason}"
            for artefact in run.manifest.artefacts
            if artefact.status != "exported"
        }
        record["runs"][folder.name] = {
            "images": len(run.labels),
            "classes": list(run.manifest.classes),
            "network": run.manifest.architecture and run.manifest.architecture.to_dict(),
            "metric": run.metric,
            "files": rows,
            "not_exported": missing,
        }
    if options.out is not None:
        write_json(record, options.out)


if __name__ == "__main__":
    main()
