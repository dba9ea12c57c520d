"""A program that answers as NVIDIA's `trtexec` does, with scripted times: for tests where no GPU is.

`write_trtexec(folder)` writes it. It knows the flags of its version and refuses others as the real one does, keeps what an
engine was built with in the "plan" it writes, and prints and writes times in the formats of TensorRT 8.6, 10 and 11. Where
onnxruntime is, `--loadInputs` gives the logits of the ONNX file. Every call is appended to `calls.jsonl` beside it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMON = [
    "--help", "--onnx", "--minShapes", "--optShapes", "--maxShapes", "--memPoolSize", "--profilingVerbosity", "--refit",
    "--noTF32", "--timingCacheFile", "--saveEngine", "--loadEngine", "--skipInference", "--builderOptimizationLevel",
    "--shapes", "--loadInputs", "--iterations", "--warmUp", "--duration", "--exposeDMA", "--noDataTransfers",
    "--useSpinWait", "--useCudaGraph", "--infStreams", "--separateProfileRun", "--avgRuns", "--percentile", "--exportTimes",
    "--exportOutput", "--exportProfile", "--exportLayerInfo", "--dumpProfile", "--verbose", "--device",
]  # fmt: skip
FLAGS = {
    8: [*COMMON, "--fp16", "--int8", "--best", "--buildOnly", "--precisionConstraints", "--layerPrecisions"],
    10: [*COMMON, "--fp16", "--int8", "--best", "--stronglyTyped", "--precisionConstraints", "--layerPrecisions", "--profile"],
    11: [*COMMON, "--stronglyTyped", "--profile", "--noCudaGraph", "--includeDataTransfers", "--noSpinWait"],
}
BANNERS = {"8.6.2": "v8602", "10.3.0": "v100300", "10.6.0": "v100600", "11.0.0": "v110000", "11.1.0": "v11.1.0.106"}
GRAPH_FACTOR = 0.75  # a run from a CUDA graph takes this much of the time


def write_trtexec(
    folder: Path,
    version: str = "10.3.0",
    *,
    gpu_ms: Sequence[float] = (2.0,),
    gpu_ms_of: Mapping[str, float] | None = None,
    copy_ms: float = 0.25,
    fails: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    gpu: str = "Orin",
    until: Path | None = None,
    python: str = sys.executable,
) -> Path:
    """Writes the program `trtexec` into `folder` and gives its path.

    `gpu_ms` are the times of one run after the other, again from the first when they end; `gpu_ms_of` the time by the name of
    the ONNX file, beside them as a factor. `fails` maps a flag to the error that it ends with; `without` lists flags whose
    files are not written ("--exportTimes") and that `--help` does not name. With `until` its inference lasts until that file
    is there, whatever the times say.
    """
    script = {
        "version": version, "banner": BANNERS[version], "flags": FLAGS[int(version.split(".")[0])], "gpu_ms": list(gpu_ms),
        "gpu_ms_of": dict(gpu_ms_of or {}), "copy_ms": copy_ms, "fails": dict(fails or {}), "without": list(without), "gpu": gpu,
        "until": until and str(until),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script.json").write_text(json.dumps(script), encoding="utf-8")
    program = folder / "trtexec"
    program.write_text(f"#!{python}\n" + Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    program.chmod(0o755)
    return program


def calls(program: Path) -> list[dict[str, str]]:
    """The flags of every call so far, questions about the program and its GPU left out."""
    lines = (program.parent / "calls.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in lines]
    return [call for call in asked if "--help" not in call and list(call.values()) != ["no-such-engine.plan"]]


def main(words: Sequence[str]) -> int:
    """What the program does."""
    place = Path(__file__).parent
    script = json.loads((place / "script.json").read_text(encoding="utf-8"))
    given = {flag: value for flag, _, value in (word.partition("=") for word in words)}
    with (place / "calls.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(given) + "\n")
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT {script['banner']}] [b17] # trtexec {' '.join(words)}")
    if "--help" in given:
        print("=== Build Options ===")
        for flag in script["flags"]:
            if flag not in script["without"]:
                print(f"  {flag}=spec    What it does")
        return 0
    for flag in given:
        if flag not in script["flags"]:
            return failed(script, f"Unknown option: {flag} {given[flag]}")
        if flag in script["fails"]:
            return failed(script, script["fails"][flag])
    say("I", "=== Device Information ===")
    say("I", f"Selected Device: {script['gpu']}")
    if "--onnx" in given:
        return build(script, given)
    return run(script, given)


def build(script: dict[str, Any], given: dict[str, str]) -> int:
    """Writes a plan that says what it was built from and how."""
    graph = Path(given["--onnx"])
    if not graph.is_file():
        return failed(script, f"Could not open file {graph}")
    say("W", "[TRT] onnx2trt_utils.cpp:374: Your ONNX model has been generated with INT64 weights.")
    if "--timingCacheFile" in given:
        cache = Path(given["--timingCacheFile"])
        cache.write_text((cache.read_text(encoding="utf-8") if cache.exists() else "") + f"{graph.name}\n", encoding="utf-8")
    plan = {"graph": str(graph.resolve()), "version": script["version"], "flags": given}
    Path(given["--saveEngine"]).write_text(json.dumps(plan), encoding="utf-8")
    say("I", "Engine built in 12.5 sec.")
    return passed(script)


def run(script: dict[str, Any], given: dict[str, str]) -> int:
    """Times a plan, and writes what was asked for."""
    try:
        plan = json.loads(Path(given["--loadEngine"]).read_bytes())
    except (OSError, ValueError):
        return failed(script, "Error deserializing the engine.")
    if plan["version"] != script["version"]:
        return failed(script, "[TRT] 1: [runtime.cpp::parsePlan::314] Error Code 1: Serialization (version tag does not match)")
    newest = script["version"].startswith("11")
    graph = "--noCudaGraph" not in given if newest else "--useCudaGraph" in given
    copies = "--includeDataTransfers" in given if newest else "--noDataTransfers" not in given
    say("I", f"CUDA Graph: {'Enabled' if graph else 'Disabled'}")
    factor = script["gpu_ms_of"].get(Path(plan["graph"]).name, 1.0) * (GRAPH_FACTOR if graph else 1.0)
    number = max(int(given.get("--iterations", 10)), len(script["gpu_ms"]))
    times = [factor * script["gpu_ms"][index % len(script["gpu_ms"])] for index in range(number)]
    say("I", "Starting inference")
    while script["until"] and not Path(script["until"]).exists():
        time.sleep(0.002)
    report(times, script["copy_ms"] if copies else 0.0, given, script)
    if "--exportOutput" in given:
        Path(given["--exportOutput"]).write_text(json.dumps(output(plan, given)), encoding="utf-8")
    if "--exportProfile" in given:
        layers = [{"name": "{ForeignNode[a...b]}", "timeMs": 8.0, "averageMs": 0.8, "medianMs": 0.8, "percentage": 80.0},
                  {"name": "head", "timeMs": 2.0, "averageMs": 0.2, "medianMs": 0.2, "percentage": 20.0}]  # fmt: skip
        Path(given["--exportProfile"]).write_text(json.dumps([{"count": 10}, *layers]), encoding="utf-8")
    if "--exportLayerInfo" in given:
        names = ["{ForeignNode[a...b]}", "head"]
        tensors = {"I/O Tensors": [{"Name": "image"}]} if newest else {"Bindings": ["image", "logits"]}
        described = {"Layers": [{"Name": name, "LayerType": "kgen"} for name in names], **tensors}
        Path(given["--exportLayerInfo"]).write_text(json.dumps(described), encoding="utf-8")
    return passed(script)


def report(times: Sequence[float], copy_ms: float, given: dict[str, str], script: dict[str, Any]) -> None:
    """Prints the trace and the summary, and writes the file of times."""
    say("I", "Warmup completed 57 queries over 200 ms")
    say("I", f"Timing trace has {len(times)} queries over {sum(times) / 1000:g} s")
    say("I", "=== Trace details ===")
    average = int(given.get("--avgRuns", 10))
    for start in range(0, len(times) - average + 1, average):
        gpu = sum(times[start : start + average]) / average
        host = gpu + 2 * copy_ms
        say("I", f"Average on {average} runs - GPU latency: {gpu:g} ms - Host latency: {host:g} ms (enqueue 0.1 ms)")
    say("I", "=== Performance summary ===")
    say("I", f"Throughput: {1000 * len(times) / sum(times):g} qps")
    for name, added in (("Latency", 2 * copy_ms), ("GPU Compute Time", 0.0)):
        ordered = sorted(time + added for time in times)
        middle = len(ordered) // 2
        median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        p99 = ordered[max(len(ordered) - 1 - int(0.01 * len(ordered)), 0)]
        mean = sum(ordered) / len(ordered)
        say("I", f"{name}: min = {ordered[0]:g} ms, max = {ordered[-1]:g} ms, mean = {mean:g} ms, median = {median:g} ms, "
                 f"percentile(90%) = {p99:g} ms, percentile(95%) = {p99:g} ms, percentile(99%) = {p99:g} ms")  # fmt: skip
    if "--exportTimes" not in given or "--exportTimes" in script["without"]:
        return
    rows, at = [], 0.0
    for gpu in times:
        moments = {"startEnqMs": at, "endEnqMs": at + 0.1, "startH2dMs": at, "endH2dMs": at + copy_ms}
        moments |= {"startComputeMs": at + copy_ms, "endComputeMs": at + copy_ms + gpu}
        moments |= {"startD2hMs": at + copy_ms + gpu, "endD2hMs": at + 2 * copy_ms + gpu}
        rows.append({**moments, "h2dMs": copy_ms, "computeMs": gpu, "d2hMs": copy_ms, "latencyMs": gpu + 2 * copy_ms})
        at += gpu + 2 * copy_ms
    lines = [
        "  " * (index == 0)
        + ", " * (index > 0)
        + "{ "
        + ", ".join(f'"{name}" : {value:.7g}' for name, value in row.items())
        + " }"
        for index, row in enumerate(rows)
    ]
    Path(given["--exportTimes"]).write_text("\n".join(["[", *lines, "]\n"]), encoding="utf-8")


def output(plan: dict[str, Any], given: dict[str, str]) -> list[dict[str, Any]]:
    """The logits of the images given, as `--exportOutput` has them."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(plan["graph"], providers=["CPUExecutionProvider"])
    name, file = given["--loadInputs"].rsplit(":", 1)
    entry = session.get_inputs()[0]
    assert entry.name == name, f"the input is called {entry.name}"
    kind = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}[entry.type]
    shape = [int(size) for size in given["--shapes"].rsplit(":", 1)[1].split("x")] if "--shapes" in given else entry.shape
    logits = session.run(None, {name: np.fromfile(file, kind).reshape(shape)})[0]
    dimensions = "x".join(map(str, logits.shape))
    return [{"name": session.get_outputs()[0].name, "dimensions": dimensions, "values": logits.ravel().tolist()}]


def say(letter: str, words: str) -> None:
    """One line as trtexec logs it."""
    print(f"[11/22/2026-12:00:00] [{letter}] {words}", flush=True)  # as the real one does


def failed(script: dict[str, Any], reason: str) -> int:
    """An error, and the exit code of a failure."""
    say("E", reason)
    print(f"&&&& FAILED TensorRT.trtexec [TensorRT {script['banner']}] [b17] # trtexec")
    return 1


def passed(script: dict[str, Any]) -> int:
    """The last line of a success."""
    print(f"&&&& PASSED TensorRT.trtexec [TensorRT {script['banner']}] [b17] # trtexec")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
