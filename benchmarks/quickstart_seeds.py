"""The quickstart over several seeds: score of what is delivered, int8 against fp32, budgets as measured, time.

    python benchmarks/quickstart_seeds.py --seeds 0 1 2 --out benchmarks/results/quickstart_seeds.json

Runs `autoformer run` once per seed in a process of its own and prints the table that the README shows. Finished runs in
the folder `--runs` are read and not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from autoformer.metric import WORDS
from autoformer.profiling.tables.limit import status_from


def run(recipe: Path, seed: int, folder: Path) -> dict[str, Any]:
    """The report of one seed."""
    words = ["run", str(recipe), "--set", f"seed={seed}", "--out", str(folder), "--json"]
    done = subprocess.run([sys.executable, "-m", "autoformer.cli", *words], stdout=subprocess.PIPE, check=True, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def row(report: dict[str, Any]) -> dict[str, Any]:
    """What is compared between seeds."""
    test = report["test"]
    return {
        "seed": report["seed"],
        "network": report["chosen"]["slug"],
        "params": report["chosen"]["params"],
        "flops": report["chosen"]["flops"],
        "inherited": test["inherited"],
        "finetuned": test["finetuned"],
        "onnx fp32": test["onnx fp32"],
        "onnx int8": test.get("onnx int8"),
        "int8_disagreement": report["int8_disagreement"],
        "budget": {entry["limit"]: entry["met"] for entry in report["budget"]},
        "seconds": sum(report["steps"].values()),
    }


def percent(score: dict[str, Any] | None) -> str:
    """A score with its interval."""
    if score is None:
        return "rejected"
    return f"{100 * score['value']:.1f} % [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def markdown(rows: list[dict[str, Any]]) -> str:
    """The README's table."""
    lines = [
        "| seed | network | params | FLOPs | inherited | finetuned | ONNX fp32 | ONNX int8 | int8 differs | budgets | time |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in rows:
        different = entry["int8_disagreement"]
        differs = "–" if different is None else f"{different['different']} of {different['images']}"
        statuses = ", ".join(sorted({status_from(status) for status in entry["budget"].values()}))
        lines.append(
            f"| {entry['seed']} | {entry['network']} | {entry['params'] / 1e3:.0f}k | {entry['flops'] / 1e6:.2f}M "
            f"| {percent(entry['inherited'])} | {percent(entry['finetuned'])} | {percent(entry['onnx fp32'])} "
            f"| {percent(entry['onnx int8'])} | {differs} | {statuses} | {entry['seconds']:.0f} s |"
        )
    mean = sum(entry["onnx fp32"]["value"] for entry in rows) / len(rows)
    words = WORDS[rows[0]["onnx fp32"]["metric"]]
    lines.append(f"\nMean {words} of the delivered ONNX fp32 file over {len(rows)} seeds: {100 * mean:.2f} %.")
    return "\n".join(lines)


def main() -> None:
    root = Path(__file__).parent.parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", type=Path, default=root / "recipes" / "quickstart.yaml")
    parser.add_argument("--runs", type=Path, default=root / "runs" / "seeds")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the rows")
    options = parser.parse_args()
    reports = [run(options.recipe, seed, options.runs / f"seed{seed}") for seed in options.seeds]
    rows = [row(report) for report in reports]
    print(markdown(rows))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"device": reports[0]["device"], "recipe": reports[0]["recipe"], "rows": rows}
        options.out.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
