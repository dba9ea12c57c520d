"""The last place where strings become numbers: 6M, 1.3G, 2.5ms, 60 %."""

from __future__ import annotations

import re

from autoformer.cost import Budget, CostModel
from autoformer.errors import BudgetError
from autoformer.space import SearchSpace

UNITS = {
    "params": {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9},
    "flops": {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9},
    "latency_ms": {"ms": 1.0, "us": 1e-3, "µs": 1e-3, "s": 1e3},
}


def parse(measure: str, text: str, largest: float | None) -> float:
    """A limit on `measure` ("params", "flops", "latency_ms"), absolute or in percent of `largest`.

    Raises `BudgetError` on anything else, saying what is understood. A latency needs its unit.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Zµ%]*)\s*", str(text))
    number, unit = (float(match[1]), match[2]) if match else (0.0, "?")
    if unit == "%" and largest is not None:
        return number / 100 * largest
    if unit not in UNITS[measure]:
        example = {"params": "6M", "flops": "1.3G", "latency_ms": "2.5ms"}[measure]
        raise BudgetError(f"limit {text!r} on {measure} is not understood; write {example}, or 60% of the largest network's")
    return number * UNITS[measure][unit]


def percentage(text: str) -> float:
    """A share like "5%" as a number, 0.05. Raises `BudgetError` on anything else."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*%\s*", text)
    if match is None:
        raise BudgetError(f"{text!r} is no percentage; write 5%")
    return float(match[1]) / 100


def read_budget(
    space: SearchSpace,
    costs: CostModel,
    *,
    max_params: str | None = None,
    min_params: str | None = None,
    max_flops: str | None = None,
    min_flops: str | None = None,
    max_latency: str | None = None,
) -> Budget:
    """The limits in words as a `Budget`; percentages are of the largest network of `space`."""
    largest = costs(space.largest)
    if max_latency is not None and largest.latency_ms is None:
        raise BudgetError(f"limit {max_latency!r} on latency needs measured latencies: give a latency table of the target")

    def limit(measure: str, text: str | None) -> float | None:
        return None if text is None else parse(measure, text, getattr(largest, measure))

    return Budget(
        max_params=limit("params", max_params),
        min_params=limit("params", min_params),
        max_flops=limit("flops", max_flops),
        min_flops=limit("flops", min_flops),
        max_latency_ms=limit("latency_ms", max_latency),
    )
