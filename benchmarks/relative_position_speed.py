"""How much relative position costs: our forms against the naive one and against the same network without it.

One process builds the networks, then takes one timed call of each in turn, many rounds, so that a busy machine slows all of
them alike; what counts is the ratios. Peak memory is measured in a fresh process per network (CPU: high-water mark of the
resident memory above the level after a step with one image; CUDA: the allocator's own maximum).

    python benchmarks/relative_position_speed.py --batches 1 8 32 --rounds 9 --out relative_position_speed.json
    python benchmarks/relative_position_speed.py --device cuda --autocast --batches 64 256

Needs torch and the autoformer package; nothing else. Times are wall-clock milliseconds (CUDA: device synchronised).
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from naive_relative_position import make_naive

from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES, Architecture
from autoformer.networks.relative_position import Form
from autoformer.networks.supernet import Supernet
from autoformer.space import SearchSpace

NETWORKS = ("naive", "auto", "bias", "fused", "tiled", "plain")  # plain: the same shape without relative position
MEASURES = ("forward", "train")


class Case:
    """One network with its optimiser and one batch of random images; `run` is what gets timed."""

    def __init__(self, network: str, architecture: Architecture, space: SearchSpace, arguments: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.device = torch.device(arguments.device)
        self.autocast = arguments.autocast
        self.architecture = architecture
        form = cast(Form, "auto" if network in ("naive", "plain") else network)
        supernet = Supernet(replace(space, relative_position=network != "plain"), form=form)
        self.supernet = (make_naive(supernet) if network == "naive" else supernet).to(self.device)
        self.optimiser = torch.optim.AdamW(self.supernet.parameters(), lr=1e-4)
        self.side, self.classes = space.image_size, space.num_classes

    def batch(self, images: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (images, self.supernet.space.in_chans, self.side, self.side)
        return torch.randn(shape, device=self.device), torch.randint(self.classes, (images,), device=self.device)

    def run(self, measure: str, images: torch.Tensor, labels: torch.Tensor) -> None:
        """One forward in evaluation mode, or one training step: forward, backward, AdamW."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            if measure == "forward":
                with torch.inference_mode():
                    self.supernet.eval()(images, self.architecture)
            else:
                loss = F.cross_entropy(self.supernet.train()(images, self.architecture).float(), labels)
        if measure == "train":
            loss.backward()
            self.optimiser.step()
            self.optimiser.zero_grad()

    def timed(self, measure: str, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Milliseconds of one call."""
        self.wait()
        start = time.perf_counter()
        self.run(measure, images, labels)
        self.wait()
        return 1e3 * (time.perf_counter() - start)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure_times(arguments: argparse.Namespace, architecture: Architecture, space: SearchSpace) -> list[dict[str, Any]]:
    """Medians in milliseconds and ratios per network, measure and batch size; raw samples kept."""
    cases = {name: Case(name, architecture, space, arguments) for name in arguments.networks}
    rows: list[dict[str, Any]] = []
    for size in arguments.batches:
        for measure in arguments.measures:
            batch = next(iter(cases.values())).batch(size)
            samples: dict[str, list[float]] = {name: [] for name in cases}
            for turn in range(arguments.warmup + arguments.rounds):
                for name, case in cases.items():
                    elapsed = case.timed(measure, *batch)
                    if turn >= arguments.warmup:
                        samples[name].append(elapsed)
            medians = {name: statistics.median(values) for name, values in samples.items()}
            for name in cases:
                row: dict[str, Any] = {"network": name, "measure": measure, "batch": size, "median_ms": medians[name]}
                for reference in ("naive", "plain"):
                    if reference in cases:  # the median of the ratios of neighbours in time
                        pairs = zip(samples[name], samples[reference], strict=True)
                        row[f"times_{reference}"] = statistics.median(own / other for own, other in pairs)
                rows.append({**row, "samples_ms": samples[name]})
                show(row)
    return rows


def show(row: dict[str, Any]) -> None:
    ratios = "  ".join(f"{key[6:]} ×{row[key]:.3f}" for key in ("times_naive", "times_plain") if key in row)
    value = f"{row['median_ms']:10.1f} ms" if "median_ms" in row else f"{row['peak_mib']:10.0f} MiB"
    print(f"batch {row['batch']:>4}  {row['measure']:<8} {row['network']:<6} {value}   {ratios}", flush=True)


# --- memory ------------------------------------------------------------------------------------------------------


def resident_peak_mib() -> float:
    """High-water mark of this process's resident memory."""
    try:  # of this program alone; getrusage would include what the parent held when it started us
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024
    except (OSError, IndexError):
        unit = 1024**2 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def peak_of_this_process(arguments: argparse.Namespace, architecture: Architecture, space: SearchSpace) -> float:
    """MiB that training steps of the one network and batch size take above the level after a step with one image."""
    case = Case(arguments.networks[0], architecture, space, arguments)
    case.run("train", *case.batch(1))
    if case.device.type == "cuda":
        torch.cuda.synchronize()
        rest = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        case.run("train", *case.batch(arguments.batches[0]))
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - rest) / 1024**2
    rest_mib = resident_peak_mib()
    for _ in range(2):
        case.run("train", *case.batch(arguments.batches[0]))
    return resident_peak_mib() - rest_mib


def measure_memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory of a training step per network and batch size, each in a process of its own."""
    rows = []
    for size in arguments.batches:
        peaks = {}
        for name in arguments.networks:
            command = [sys.executable, __file__, "--memory-of-one", "--networks", name, "--batches", str(size)]
            command += ["--device", arguments.device, "--architecture", arguments.architecture]
            command += ["--autocast"] if arguments.autocast else []
            command += ["--threads", str(arguments.threads)] if arguments.threads else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"measuring the memory of {name} at batch {size} failed:\n{done.stderr}")
            peaks[name] = float(done.stdout)
        for name, peak in peaks.items():
            row: dict[str, Any] = {"network": name, "measure": "memory", "batch": size, "peak_mib": peak}
            row |= {f"times_{other}": peak / peaks[other] for other in ("naive", "plain") if other in peaks}
            rows.append(row)
            show(row)
    return rows


def describe_machine(device: str) -> dict[str, Any]:
    """What the numbers were taken on."""
    processor = platform.processor() or platform.machine()
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        processor = found[1] if found else processor
    except OSError:
        pass
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device == "cuda" else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=tuple(PUBLISHED), default="AutoFormer-T")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--measures", nargs="+", choices=(*MEASURES, "memory"), default=[*MEASURES, "memory"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    parser.add_argument("--autocast", action="store_true", help="bf16 autocast")
    parser.add_argument("--out", type=Path, help="JSON file for the results with all samples")
    parser.add_argument("--memory-of-one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    architecture = PUBLISHED[arguments.architecture]
    space = SearchSpace.preset(PUBLISHED_SPACES[arguments.architecture])
    if arguments.memory_of_one:
        print(peak_of_this_process(arguments, architecture, space))
        return
    timed = [measure for measure in arguments.measures if measure != "memory"]
    rows = measure_memory(arguments) if "memory" in arguments.measures else []
    arguments.measures = timed
    rows += measure_times(arguments, architecture, space) if timed else []
    if arguments.out:
        settings = {k: getattr(arguments, k) for k in ("architecture", "rounds", "warmup", "device", "autocast")}
        report = {"format": "autoformer/benchmark/1", **settings, "machine": describe_machine(arguments.device), "rows": rows}
        arguments.out.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
