"""The program of a device kit: `python3 board.pyz measure`.

Needs Python 3.10 and one of: `trtexec` (nothing else then); TensorRT's Python bindings with cuda-python and numpy;
onnxruntime with numpy. The kit is the folder that the program lies in, unless --kit names another. Exit codes: 0 all was
measured, 1 something was not, 2 the command or the kit cannot be used, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from autoformer.cli.board.program import Answer, Program, tell, whole
from autoformer.errors import CheckpointError, ExportError, MeasurementError
from autoformer.export.manifest import sha256_of
from autoformer.files import refuse_existing_file, sole_worker
from autoformer.profiling.kits.kit import FILE_NAME, PRECISIONS, Kit
from autoformer.profiling.kits.measuring import head_of, measure_setting, settings_of
from autoformer.profiling.kits.result import KitResult
from autoformer.profiling.kits.rows import Rows, Setting
from autoformer.profiling.kits.runtimes import RUNTIMES, runtime_here
from autoformer.profiling.measuring.clock_lock import LOCK_OPTION, NOT_HERE, locked_clocks
from autoformer.profiling.measuring.device import DeviceFacts

WORK = "measured"  # folder of finished visits and built engines, beside the kit's files


def measure(arguments: argparse.Namespace) -> Answer:
    """Measure the networks of this kit, in rounds, until its stopping rule is met; writes the result file."""
    folder: Path = arguments.kit
    kit, out = Kit.load(folder), arguments.out or folder / "result.json"
    refuse_existing_file(out)
    kit.check_files(folder)
    device = DeviceFacts.collect()
    work: Path = arguments.work or folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    with sole_worker(work), ExitStack() as stack:
        if arguments.lock_clocks:
            device = stack.enter_context(locked_clocks(device))
        runtime = runtime_here(
            arguments.runtime, folder, work / "engines", threads=arguments.threads, device=device, trtexec=arguments.trtexec
        )
        if arguments.lock_clocks and runtime.name.endswith("-cpu"):
            raise MeasurementError(NOT_HERE)
        # What a CPU does with half precision and int8 says nothing about a table that is wanted in fp32.
        precisions = arguments.precision or (["fp32"] if runtime.name == "onnxruntime-cpu" and "fp32" in kit.precisions else [])
        rows = Rows.open(work / f"{runtime.name}.jsonl", head_of(sha256_of(folder / FILE_NAME), runtime, device))
        stopped: dict[Setting, str] = {}
        missing: dict[str, str] = {}
        for setting in settings_of(kit, precisions, arguments.batch or []):
            try:
                stopped[setting] = measure_setting(kit, runtime, setting, rows, None if arguments.quiet else tell)
            except (CheckpointError, ExportError, MeasurementError) as error:  # the next setting may run all the same
                missing[str(setting)] = " ".join(str(error).split())
        if not stopped:
            reasons = "; ".join(f"{setting}: {reason}" for setting, reason in missing.items())
            raise MeasurementError(f"{runtime.name} measured nothing: {reasons}")
        KitResult.of(folder, kit, rows, device, stopped, missing).save(out)
    answer = {
        "result": str(out),
        "runtime": runtime.name,
        **{f"{key} version" if key == runtime.name.split("-")[0] else key: value for key, value in runtime.facts.items()},
        "networks": len(kit.networks),
        "measured": {str(setting): reason for setting, reason in stopped.items()},
        "not measured": missing,
        "next": f"autoformer profile table --from {out.name} --out TABLE.json, on the machine with the toolchain",
    }
    return answer, not missing


def main(words: list[str] | None = None) -> int:
    """The program."""
    program = Program(
        "kit", "Measures the networks of a benchmark package (kit) on this device.",
        stopped="stopped; every finished visit is kept, the same command goes on from there",
    )  # fmt: skip
    one = program.add(measure, "--threads", LOCK_OPTION, "--quiet")
    one.add_argument("--runtime", choices=RUNTIMES, help="default: the first of these that is here")
    one.add_argument("--trtexec", type=Path, help="the program, where it is not found by itself")
    one.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all of the kit; fp32 on a CPU")
    one.add_argument("--batch", action="append", type=whole, help="images in one call; default: all of the kit")
    one.add_argument("--work", type=Path, help="folder for what is finished so far; default: in the kit")
    one.add_argument("--out", type=Path, help="result file; default: result.json in the kit")
    return program.main(words)
