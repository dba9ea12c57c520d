"""How wrong is a latency table about networks it has not measured, and would a plainer model do as well?

    python benchmarks/latency_table_error.py --space edge tiny --backend onnxruntime-cpu torch-cpu \
        --out benchmarks/results/latency_table_error.json

Per space and backend: `--train` networks of the table's own design and `--test` networks drawn as a search draws them, all
measured together in interleaved rounds with common drift taken out. A pass opens every network anew, in one order and in the
next pass in the other, so that where a network came to lie in memory is not taken for its latency; the passes count together.
Each kind of formula is fitted on the first and judged on the others: mean absolute error, worst, Kendall's tau over all pairs and
among pairs within 5 % of each other, with the tau that the measurements' noise would leave a model without error.
Every pass is a line in the work folder beside the output, and every finished space and backend a row of it: the program
can be stopped and started again. It wants an otherwise idle machine; a pass of 54 networks takes 2 to 5 minutes at 224 px.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from autoformer import __version__
from autoformer.architecture import Architecture
from autoformer.checkpoint import json_digest, read_json, write_json
from autoformer.cost import count_flops
from autoformer.profiling.backend import LatencyBackend
from autoformer.profiling.drift import ROUNDS, as_one, without_common_drift
from autoformer.profiling.instances import BACKENDS, open_network
from autoformer.profiling.latency_models import Fit, fits_of, in_words, kept_of
from autoformer.profiling.measure import MeasureConfig, Measurement, measure
from autoformer.profiling.rank_agreement import NEAR, rank_agreement, standard_error
from autoformer.profiling.table_measurement import designed_architectures
from autoformer.space import SearchSpace


def drawn(space: SearchSpace, count: int, without: list[Architecture], seed: int = 1) -> list[Architecture]:
    """`count` different networks as a search draws them, none of `without`."""
    rng, found = random.Random(seed), dict[Architecture, None]()
    while len(found) < count:
        architecture = space.sample(rng)
        if architecture not in without:
            found[architecture] = None
    return list(found)


def passes(path: Path) -> list[dict[str, Measurement]]:
    """The finished passes of a file; a line that was being written when the program was killed is no pass."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append({name: Measurement.from_dict(one) for name, one in json.loads(line).items()})
        except ValueError:
            continue
    return found


def measured(
    space: SearchSpace, architectures: list[Architecture], backend: str, options: argparse.Namespace, work: Path
) -> list[dict[str, Measurement]]:
    """One result per pass, those of earlier runs first."""
    config = MeasureConfig(min_s=options.seconds, max_s=4 * options.seconds, rounds=options.rounds)
    asked = [space.to_dict(), [one.to_dict() for one in architectures], backend, asdict(config)]
    lines = work / f"{space.name}-{backend}-{json_digest(asked)[:12]}.jsonl"
    found = passes(lines)
    for number in range(len(found), options.passes):
        ordered = architectures if number % 2 == 0 else architectures[::-1]
        with ExitStack() as stack:
            opened: dict[str, LatencyBackend] = {}
            for index, architecture in enumerate(ordered):
                print(f"\rpass {number + 1} of {options.passes}: open {index + 1} of {len(ordered)}   ", end="", flush=True)
                network = open_network(space, architecture, backend, 1, 1, 0, work)
                opened[architecture.digest] = stack.enter_context(network)
            print(f"\rpass {number + 1} of {options.passes}: measuring {len(ordered)} networks", end="", flush=True)
            taken = measure(opened, config)
        found.append({architecture.digest: taken[architecture.digest] for architecture in architectures})
        with lines.open("a", encoding="utf-8") as file:
            file.write("\n" * (file.tell() > 0) + json.dumps({name: one.to_dict() for name, one in found[-1].items()}))
            file.flush()
            os.fsync(file.fileno())
        print(f"\rpass {number + 1} of {options.passes}: done" + " " * 30)
    return found[: options.passes]


def between_passes(taken: list[dict[str, Measurement]]) -> float | None:
    """By how much a network's median differs from pass to pass beyond common drift, relative: the median over networks."""
    if len(taken) < 2:
        return None
    apart = [without_common_drift(one) for one in taken]
    logs = np.log([[one[name].stats.p50_ms for name in taken[0]] for one in apart])  # [passes, networks]
    logs -= np.median(logs, axis=1, keepdims=True)
    return float(np.median(logs.std(axis=0, ddof=1)))


def judged(
    fit: Fit, space: SearchSpace, test: list[Architecture], times: np.ndarray[Any, Any], errors: list[float]
) -> dict[str, Any]:
    """How wrong one fitted formula is about the networks of `test`."""
    predicted = fit.predict(test, space)
    wrong = np.abs(predicted / times - 1)
    everywhere = rank_agreement(times.tolist(), predicted.tolist(), errors)
    near = rank_agreement(times.tolist(), predicted.tolist(), errors, within=NEAR)
    return {
        "formula": in_words(fit.kind, fit.coefficients, fit.shapes),
        "mape": float(wrong.mean()),
        "worst": float(wrong.max()),
        "tau": asdict(everywhere),
        "tau_near": asdict(near),
        "left_out_mape": float(fit.left_out_errors.mean()),
        "predicted_ms": predicted.tolist(),
    }


def row(space: SearchSpace, backend: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measures and judges one space on one backend."""
    train = designed_architectures(space, options.train)
    test = drawn(space, options.test, train)
    taken = measured(space, [*train, *test], backend, options, work)
    apart = [without_common_drift(one) for one in taken]
    of = {
        architecture: as_one(architecture.slug, [one[architecture.digest] for one in apart]) for architecture in (*train, *test)
    }
    rebuilt = between_passes(taken)
    errors = []
    for architecture in test:
        low, high = of[architecture].stats.p50_low_ms, of[architecture].stats.p50_high_ms
        assert low is not None
        assert high is not None
        # The mean of all passes scatters by what opening a network anew changes, divided among them.
        errors.append(float(np.hypot(standard_error(low, high), (rebuilt or 0.0) / np.sqrt(len(taken)))))
    fits = fits_of(train, space, np.array([of[one].stats.p50_ms for one in train]))
    kept = kept_of(fits)
    times = np.array([of[one].stats.p50_ms for one in test])
    models = {kind: judged(fit, space, test, times, errors) for kind, fit in fits.items()}
    first = next(iter(of.values()))
    return {
        "space": space.name,
        "image_sizes": list(space.image_sizes),
        "backend": backend,
        "qualification": asdict(first.qualification()),
        "train": options.train,
        "test": options.test,
        "passes": len(taken),
        "seconds": options.seconds,
        "rounds": options.rounds,
        "kept": kept.kind,
        "models": models,
        "between_passes": rebuilt,
        "verdicts": {level: sum(one.verdict.level == level for one in of.values()) for level in ("VALID", "UNSTABLE", "INVALID")},
        "networks": [
            {
                "architecture": architecture.to_dict(),
                "flops": count_flops(architecture, space),
                "role": "train" if architecture in train else "test",
                "measured_ms": one.stats.p50_ms,
                "low_ms": one.stats.p50_low_ms,
                "high_ms": one.stats.p50_high_ms,
                "verdict": str(one.verdict),
            }
            for architecture, one in of.items()
        ],
        "version": __version__,
        "device": first.device.to_dict(),
    }


def show(found: dict[str, Any]) -> None:
    """The table of one row."""
    spread = "" if found["between_passes"] is None else f", {100 * found['between_passes']:.2g} % between passes"
    print(f"{found['space']} on {found['backend']}: {found['test']} left-out networks{spread}; verdicts {found['verdicts']}")
    best = min(model["mape"] for model in found["models"].values())
    for kind, model in found["models"].items():
        mark = "kept" if kind == found["kept"] else ""
        near, whole = model["tau_near"], model["tau"]
        shown = "no near pairs" if near["tau"] is None else f"{near['tau']:.3f} of {near['ceiling']:.3f} ({near['pairs']} pairs)"
        print(
            f"  {kind:<24} {mark:<5} MAPE {100 * model['mape']:.2f} %  worst {100 * model['worst']:.2f} %  "
            f"tau {whole['tau']:.3f}  near {shown}"
        )
    print(f"  kept is {100 * (found['models'][found['kept']]['mape'] - best):.2f} points from the best of them", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", nargs="+", default=["edge", "tiny"], help="names of presets")
    parser.add_argument("--image-size", type=int, default=None, help="pixels; default: the space's own sizes")
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=["onnxruntime-cpu", "torch-cpu"])
    parser.add_argument("--train", type=int, default=24, help="networks that the formulas are fitted on")
    parser.add_argument("--test", type=int, default=30, help="networks that they are judged on")
    parser.add_argument("--passes", type=int, default=4, help="times that every network is opened and measured")
    parser.add_argument("--seconds", type=float, default=1.5, help="of measuring per network and pass")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="interleaved visits of each network in a pass")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write; the work folder stands beside it")
    options = parser.parse_args()
    work = options.out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = read_json(options.out, "rows")["rows"] if options.out.exists() else []
    for name in options.space:
        for backend in options.backend:
            found = row(SearchSpace.preset(name, image_size=options.image_size), backend, options, work)
            same = ("space", "image_sizes", "backend")
            rows = [old for old in rows if any(old[key] != found[key] for key in same)] + [found]
            write_json({"rows": rows}, options.out)
            show(found)
    kept = [found["models"][found["kept"]]["mape"] for found in rows]
    print(f"mean absolute error of what is kept: median {100 * statistics.median(kept):.2f} %, worst {100 * max(kept):.2f} %")


if __name__ == "__main__":
    main()
