"""The program of a bundle, for the device itself: `python3 board.pyz verify | predict | bench | build | refit | inspect`.

Needs Python 3.10, numpy, Pillow and the runtime that is there: ONNX Runtime, TensorRT, or NVIDIA's program trtexec; nothing
else. The bundle is the folder that the program lies in, unless --bundle names another. Exit codes: 0 all files match and the
budget is kept, 1 something does not, or the runtime that is here does not run a file, 2 command or bundle cannot be used.
"""

from __future__ import annotations

from pathlib import Path

from autoformer.cli.board.bench import bench
from autoformer.cli.board.build import build
from autoformer.cli.board.bundle import lacking
from autoformer.cli.board.program import Program, whole
from autoformer.cli.board.refit import inspect, refit
from autoformer.cli.board.tables import bench_lines, predict_lines, verify_lines
from autoformer.cli.board.verify import predict, verify
from autoformer.export.engines.builder import PRECISIONS
from autoformer.export.engines.tensorrt_versions import PRODUCTS, TENSORRT
from autoformer.profiling.measuring.clock_lock import LOCK_OPTION


def main(words: list[str] | None = None) -> int:
    """The program."""
    program = Program(
        "bundle", "Checks, runs and times the networks of a bundle on this device.",
        stopped="stopped; files that were finished are kept", lacking=lacking,
    )  # fmt: skip
    checking = program.add(verify, "--threads", "--seconds", lines=verify_lines)
    timing = program.add(bench, "--threads", "--seconds", LOCK_OPTION, lines=bench_lines)
    for one in (checking, timing):
        one.add_argument("--out", type=Path, help="result file to write, for `autoformer report import` on another machine")
    building = program.add(build, "--quiet")
    for one in (checking, timing, building):
        one.add_argument("--batch", type=whole, help="images in one call; default: 1, or what a file is fixed to")
    building.add_argument(
        "--precision", action="append", choices=tuple(PRECISIONS), help="default: fp32, fp16, int8 as files are there"
    )
    building.add_argument(
        "--engine-batch", action="append", metavar="N|MIN:TUNED:MAX", help="a profile of batches; may repeat; default 1:1:8"
    )
    building.add_argument(
        "--format",
        choices=tuple(PRODUCTS),
        default=TENSORRT.format,
        help="tensorrt-rtx: on RTX GPUs of PCs; default tensorrt",
    )
    building.add_argument("--workspace", type=whole, metavar="MIB", help="limit of scratch memory; shared on a Jetson")
    building.add_argument("--builder-level", type=int, default=3, choices=range(6), help="higher builds longer; default 3")
    building.add_argument("--refittable", action="store_true", help="weights can be replaced later; may run slower")
    predicting = program.add(predict, lines=predict_lines)
    predicting.add_argument("images", nargs="+", help="image files, or folders of them")
    predicting.add_argument("--top", type=whole, default=3, help="classes shown per image; default 3")
    predicting.add_argument("--precision", choices=("fp32", "fp16", "int8"), help="default: that of the file to ship, else fp32")
    program.add(refit).add_argument("source", type=Path, help="another bundle of the same architecture, with engines built here")
    program.add(inspect)
    return program.main(words)
