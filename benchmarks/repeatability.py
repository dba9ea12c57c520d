"""How well a measurement repeats on a quiet machine, and whether a loaded one is noticed.

    python benchmarks/repeatability.py --out benchmarks/results/repeatability.json

Exports a published network with random weights, measures it five times as `profile run` does, and compares the five medians
as ratios to the reference network of each measurement: they must lie within 3 %. Then as many processes as the machine has
cores, and one more, are started to do nothing but burn time, the same is measured once more, and the verdict must not be VALID.
Run it on a machine that does nothing else; the verdicts of the five tell whether it did.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from autoformer import __version__
from autoformer.architecture import PUBLISHED, PUBLISHED_SPACES
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.files import write_json
from autoformer.networks.subnet import Subnet
from autoformer.profiling.measuring.device import DeviceFacts
from autoformer.profiling.measuring.measure import MeasureConfig
from autoformer.profiling.measuring.system_files import usable_cores
from autoformer.profiling.profiles.latency import Profile, ProfileRequest, profile_artefacts
from autoformer.space import SearchSpace

BAR = 0.03  # from the smallest median to the largest, relative to their median


@contextmanager
def burning(processes: int) -> Iterator[None]:
    """So many processes that burn time while the block runs."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def row(profile: Profile) -> dict[str, object]:
    taken = profile.measurements[0]
    conditions = taken.conditions
    return {
        "p50_ms": taken.stats.p50_ms, "cpu_p50_ms": taken.cpu_stats and taken.cpu_stats.p50_ms, "runs": taken.stats.n,
        "reference_p50_ms": profile.reference.stats.p50_ms, "ratio": profile.ratio(taken), "verdict": taken.verdict.level,
        "reasons": list(taken.verdict.reasons), "other_cores": conditions and conditions.other_cores, "created": profile.created,
    }  # fmt: skip


def spread(values: list[float]) -> float:
    """From the smallest to the largest, relative to the median."""
    return (max(values) - min(values)) / median(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="AutoFormer-T", choices=sorted(PUBLISHED))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing, each time")
    parser.add_argument("--rounds", type=int, default=50, help="visits of network and reference in turns, each time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    words = parser.parse_args()
    config = MeasureConfig(
        warmup_s=2, warmup_max_s=20, rounds=words.rounds, min_s=words.seconds, max_s=4 * words.seconds
    )  # long enough for a shared machine
    with tempfile.TemporaryDirectory() as folder:
        space = SearchSpace.preset(PUBLISHED_SPACES[words.network])
        path = Path(folder) / "model.onnx"
        OnnxGraph.from_network(Subnet.from_space(space, PUBLISHED[words.network]), path)

        def once() -> Profile:
            return profile_artefacts([path], ProfileRequest(threads=words.threads, backends=["onnxruntime-cpu"]), config=config)

        profiles = []
        for number in range(words.repeats):
            profiles.append(once())
            taken = profiles[-1].measurements[0]
            ratio = profiles[-1].ratio(taken)
            print(f"{number + 1}: {taken.stats.p50_ms:.3f} ms, {ratio:.2f} times the reference, {taken.verdict}", flush=True)
        with burning(usable_cores() + 1):
            loaded = once()
    ratios = [profile.ratio(profile.measurements[0]) for profile in profiles]
    medians = [profile.measurements[0].stats.p50_ms for profile in profiles]
    noticed = loaded.measurements[0].verdict
    print(f"medians as ratios to the reference within {100 * spread(ratios):.2f} % (bar {100 * BAR:g} %)")
    print(f"medians in milliseconds within {100 * spread(medians):.2f} %")
    print(f"loaded with {usable_cores() + 1} burning processes: {noticed}")
    write_json(
        {
            "version": __version__, "network": words.network, "threads": words.threads, "seconds": words.seconds,
            "rounds": words.rounds,
            "device": DeviceFacts.collect().to_dict(), "repeats": [row(profile) for profile in profiles],
            "spread_of_ratios": spread(ratios), "spread_of_medians": spread(medians), "bar": BAR,
            "within_bar": spread(ratios) <= BAR, "loaded": row(loaded), "load_noticed": noticed.level != "VALID",
        },
        words.out,
    )  # fmt: skip


if __name__ == "__main__":
    main()
