"""How wrong is a latency table about networks it has not measured, and would a plainer model do as well?

    python benchmarks/latency_table_error.py --space edge tiny --backend onnxruntime-cpu torch-cpu \
        --out benchmarks/results/latency_table_error.json

Per space and backend: the networks of the table's own design and `--test` networks drawn as a search draws them, all measured
together. A pass opens every network anew, in a new random order, and measures all in interleaved rounds, common drift taken out:
where a network came to lie in memory is not taken for its latency; a network counts as the median of its passes. The table
grows as `profile table` has it grow, and takes as many of the designed networks as that comes to.
Each kind of formula is fitted on those and judged on the others: mean absolute error, worst, Kendall's tau over all pairs and
among pairs within 5 % of each other, with the tau that the measurements' noise would leave a model without error. What the kept
formula comes to with fewer or more networks stands beside it.
Every pass is a line in the work folder beside the output, and every finished space and backend a row of it: the program
can be stopped and started again. It wants an otherwise idle machine; a pass of 66 networks takes one to two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from autoformer import __version__
from autoformer.architecture import Architecture
from autoformer.cost import count_flops
from autoformer.files import json_digest, read_json, write_json
from autoformer.profiling.backends.of_spaces import Setup, open_network
from autoformer.profiling.measuring.backend import USUAL_BACKENDS, LatencyBackend
from autoformer.profiling.measuring.drift import as_one, without_common_drift
from autoformer.profiling.measuring.measure import MeasureConfig, Measurement, measure
from autoformer.profiling.tables.design import designed_architectures
from autoformer.profiling.tables.errors import NEAR, rank_agreement, standard_error
from autoformer.profiling.tables.formulas import Fit, fits_of, in_words, kept_of
from autoformer.profiling.tables.measuring import FIRST, MOST, grown_table
from autoformer.profiling.tables.table import MEDIAN_OF_NORMAL, LatencyTable
from autoformer.space import SearchSpace


def space_of(words: str, image_size: int | None) -> SearchSpace:
    """A preset by its name, or a space from its JSON file: one that asks for more than the article's choices, say."""
    if words.endswith(".json"):
        return SearchSpace.from_dict(read_json(Path(words), "name", expected="a space"))
    return SearchSpace.preset(words, image_size=image_size)


def drawn(space: SearchSpace, count: int, without: list[Architecture], seed: int) -> list[Architecture]:
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
    config = MeasureConfig(
        warmup_s=0.1, warmup_max_s=0.3, lead_in_runs=1, rounds=options.rounds, min_runs=options.rounds, min_s=options.seconds,
        max_s=4 * options.seconds,
    )  # fmt: skip
    asked = [space.to_dict(), [one.to_dict() for one in architectures], backend, asdict(config)]
    lines = work / f"{space.name}-{backend}-{json_digest(asked)[:12]}.jsonl"
    found = passes(lines)
    for number in range(len(found), options.passes):
        where = f"\rpass {number + 1} of {options.passes}:"
        with ExitStack() as stack:
            opened: dict[str, LatencyBackend] = {}
            for architecture in random.Random(number).sample(architectures, len(architectures)):
                print(f"{where} open {len(opened) + 1} of {len(architectures)}   ", end="", flush=True)
                network = open_network(space, architecture, Setup(backend=backend, threads=1), work)
                opened[architecture.digest] = stack.enter_context(network)
            print(f"{where} measuring {len(opened)} networks", end="", flush=True)
            found.append(measure(opened, config))
        with lines.open("a", encoding="utf-8") as file:
            file.write("\n" * (file.tell() > 0) + json.dumps({name: one.to_dict() for name, one in found[-1].items()}))
            file.flush()
            os.fsync(file.fileno())
        print(f"{where} done" + " " * 30)
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
        "left_out_mape": float(fit.cross_validation_errors.mean()),
        "predicted_ms": predicted.tolist(),
    }


def row(space: SearchSpace, backend: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measures and judges one space on one backend."""
    design = designed_architectures(space, MOST)
    test = drawn(space, options.test, design, options.seed)
    taken = measured(space, [*design, *test], backend, options, work)
    apart = [without_common_drift(one) for one in taken]
    of = {
        architecture: as_one(architecture.slug, [one[architecture.digest] for one in apart]) for architecture in (*design, *test)
    }
    first = of[design[0]]

    def fitted(architectures: Sequence[Architecture]) -> LatencyTable:
        times = [(architecture, of[architecture].stats.p50_ms) for architecture in architectures]
        return LatencyTable.fit(space, first.measurement_conditions(), times, device=first.device)

    table = grown_table(space, fitted)
    train = [network.architecture for network in table.networks]
    rebuilt = between_passes(taken)
    errors = []
    for architecture in test:
        low, high = of[architecture].stats.p50_low_ms, of[architecture].stats.p50_high_ms
        assert low is not None
        assert high is not None
        # The median of all passes scatters by what opening a network again changes, divided among them.
        errors.append(float(np.hypot(standard_error(low, high), MEDIAN_OF_NORMAL * (rebuilt or 0.0) / np.sqrt(len(taken)))))
    times = np.array([of[one].stats.p50_ms for one in test])

    def fits(count: int) -> dict[str, Fit]:
        architectures = designed_architectures(space, count)
        return fits_of(architectures, space, np.array([of[one].stats.p50_ms for one in architectures]))

    by_number = {}
    for count in range(FIRST, MOST + 1, 6):
        kept = kept_of(fits(count))
        by_number[count] = {"kept": kept.kind, "mape": judged(kept, space, test, times, errors)["mape"]}
    return {
        "space": space.name,
        "image_sizes": list(space.image_sizes),
        "backend": backend,
        "qualification": asdict(first.measurement_conditions()),
        "train": len(train),
        "stopped": table.stopped,
        "test": options.test,
        "seed": options.seed,
        "passes": len(taken),
        "seconds": options.seconds,
        "rounds": options.rounds,
        "kept": table.kind,
        "models": {kind: judged(fit, space, test, times, errors) for kind, fit in fits(len(train)).items()},
        "by_number": by_number,
        "between_passes": rebuilt,
        "verdicts": {level: sum(one.verdict.level == level for one in of.values()) for level in ("VALID", "UNSTABLE", "INVALID")},
        "networks": [
            {
                "architecture": architecture.to_dict(),
                "flops": count_flops(architecture, space),
                "role": "train" if architecture in train else "test" if architecture in test else "not needed",
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
    print(f"{found['space']} on {found['backend']}: {found['test']} test networks{spread}; verdicts {found['verdicts']}")
    print(f"  fitted on {found['train']}: {found['stopped']}")
    best = min(model["mape"] for model in found["models"].values())
    width = max(map(len, found["models"]))
    for kind, model in found["models"].items():
        mark = "kept" if kind == found["kept"] else ""
        near, whole = model["tau_near"], model["tau"]
        shown = "no near pairs" if near["tau"] is None else f"{near['tau']:.3f} of {near['ceiling']:.3f} ({near['pairs']} pairs)"
        print(
            f"  {kind:<{width}} {mark:<5} MAPE {100 * model['mape']:.2f} %  worst {100 * model['worst']:.2f} %  "
            f"tau {whole['tau']:.3f}  near {shown}"
        )
    others = ", ".join(f"{count} {100 * one['mape']:.2f} %" for count, one in found["by_number"].items())
    print(f"  what is kept with so many networks comes to {others}")
    print(f"  kept is {100 * (found['models'][found['kept']]['mape'] - best):.2f} points from the best of them", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", nargs="+", default=["edge", "tiny"], help="names of presets, or JSON files of spaces")
    parser.add_argument("--image-size", type=int, default=None, help="pixels, of presets; default: the space's own sizes")
    parser.add_argument("--backend", nargs="+", choices=USUAL_BACKENDS, default=["onnxruntime-cpu", "torch-cpu"])
    parser.add_argument("--test", type=int, default=30, help="networks that they are judged on")
    parser.add_argument("--seed", type=int, default=1, help="of drawing those")
    parser.add_argument("--passes", type=int, default=16, help="times that every network is opened and measured")
    parser.add_argument("--seconds", type=float, default=0.25, help="of measuring per network and pass")
    parser.add_argument("--rounds", type=int, default=4, help="interleaved visits of each network in a pass")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write; the work folder stands beside it")
    options = parser.parse_args()
    work = options.out.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = read_json(options.out, "rows")["rows"] if options.out.exists() else []
    for name in options.space:
        for backend in options.backend:
            found = row(space_of(name, options.image_size), backend, options, work)
            same = ("space", "image_sizes", "backend", "seed")
            rows = [old for old in rows if any(old[key] != found[key] for key in same)] + [found]
            write_json({"rows": rows}, options.out)
            show(found)
    kept = [found["models"][found["kept"]]["mape"] for found in rows]
    print(f"mean absolute error of what is kept: median {100 * statistics.median(kept):.2f} %, worst {100 * max(kept):.2f} %")


if __name__ == "__main__":
    main()
