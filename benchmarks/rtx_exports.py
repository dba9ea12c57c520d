"""Engines that `autoformer export` built ahead of time, with what the builder recognised in each file.

    autoformer export NETWORK --format tensorrt-rtx --gpu sm89 --out FOLDER …       # fp32, fp16 and int8, once for each network
    python benchmarks/rtx_exports.py --out benchmarks/results/rtx_exports.json FOLDER …

Reads the manifest of each folder: built or refused with the reason, seconds, size. The ONNX file that each engine was built from
is then given to the builder once more in a process of its own (`autoformer check --build`), which says how many of the file's
attention blocks it recognised, and how many became one kernel.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rtx_builds import facts_of

from autoformer import __version__
from autoformer.export.engines.target_gpus import read_gpus
from autoformer.export.engines.tensorrt_versions import TENSORRT_RTX
from autoformer.export.engines.trial import TrialProcess
from autoformer.files import read_json, write_json
from autoformer.profiling.measuring.device import DeviceFacts

FORMAT = TENSORRT_RTX.format
FROM_BUILDER = ("attention_blocks", "recognised", "one_kernel", "int8")


def rows_of(folder: Path, attempt: TrialProcess) -> list[dict[str, Any]]:
    """One row for each engine of an export, also for one that was refused."""
    artefacts = read_json(folder / "manifest.json")["artefacts"]
    files = {entry["precision"]: entry.get("file") for entry in artefacts if entry["format"] == "onnx"}
    rows = []
    for entry in artefacts:
        if entry["format"] != FORMAT:
            continue
        row = {"network": folder.name, **{key: entry[key] for key in ("precision", "status", "reason")}}
        if entry.get("made"):
            gpus = read_gpus(entry["made"]["config"]["gpus"])
            found = facts_of(folder / files[entry["precision"]], attempt, gpus)
            row |= {"seconds": entry["made"]["seconds"], "MB": round(entry["bytes"] / 1e6, 1), "gpus": list(gpus)}
            row |= {key: found[key] for key in FROM_BUILDER} if "refused" not in found else {"check": found["refused"]}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    with TrialProcess(TENSORRT_RTX) as attempt:
        for folder in given.folders:
            rows += rows_of(folder, attempt)
        record = {"version": __version__, "builder": attempt.title, "device": DeviceFacts.collect().to_dict()}
    write_json({**record, "rows": rows}, given.out)
    for row in rows:
        blocks = (
            f"{row.get('recognised', '-')} of {row.get('attention_blocks', '-')} recognised, {row.get('one_kernel', '-')} in one"
        )
        print(f"{row['network']:24} {row['precision']} {row['status']:8} {row.get('seconds')} s {row.get('MB')} MB  {blocks}")


if __name__ == "__main__":
    main()
