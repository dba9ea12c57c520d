"""Which file is shipped: the rule on numbers chosen by hand, and what is said of every other file."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest

from autoformer.metric import Difference
from autoformer.profiling.measuring.verdict import Verdict
from autoformer.profiling.profiles.shipping import ExportedFile, LimitUse, file_to_ship

LEVEL, SAME = Difference(-0.002, -0.008, 0.004, tied=True), Difference(0.0, -0.005, 0.005, tied=True)
WORSE, BETTER = Difference(-0.02, -0.03, -0.01, tied=False), Difference(0.02, 0.01, 0.03, tied=False)
KEPT = {"max_latency_ms": LimitUse(share=0.5, status="within budget", reason="inside")}


def file(precision: str, ms: float | None, difference: Difference | None = SAME, **more: object) -> ExportedFile:
    """A file whose median is known to 1 %."""
    times = (None, None, None) if ms is None else (ms, 0.99 * ms, 1.01 * ms)
    found = ExportedFile(
        name=f"ONNX {precision}", precision=precision, difference=None if precision == "fp32" else difference,
        p50_ms=times[0], low_ms=times[1], high_ms=times[2], verdict=Verdict("VALID"), limits=KEPT,
    )  # fmt: skip
    return replace(found, **more)  # type: ignore[arg-type]


def shipped(*files: ExportedFile) -> str | None:
    found = file_to_ship(files, "this CPU")
    return None if found.place is None else files[found.place].precision


def test_the_fastest_is_shipped() -> None:
    files = [file("fp32", 1.0), file("fp16", 0.9), file("int8", 0.5)]
    found = file_to_ship(files, "this CPU")
    assert found.words == ("slower", "slower", "ship this")
    assert found.reason == (
        "the int8 file is the fastest of the 3 files that could be shipped; "
        "it keeps every limit, and its score is not significantly below that "
        "of fp32 (+0.0 [-0.5, +0.5] points)"
    )
    assert found.reasons[0] == "slower than ONNX int8 on this CPU: 1 against 0.5 ms"


def test_that_fp16_is_slower_than_fp32_on_this_cpu_is_said() -> None:
    fp32, fp16 = file("fp32", 1.0), file("fp16", 2.0)
    assert file_to_ship([fp32, fp16], "this CPU").reasons[1] == "slower than fp32 on this CPU: 2 against 1 ms"
    over = {"max_latency_ms": LimitUse(share=1.25, status="over budget", reason="it lies above")}
    found = file_to_ship([fp32, replace(fp16, limits=over)], "this CPU")
    assert found.words == ("ship this", "over budget")
    assert found.reasons[1] == "125 % of the latency limit: it lies above; slower than fp32 on this CPU: 2 against 1 ms"


def test_a_file_that_is_significantly_less_accurate_than_fp32_is_not_shipped_however_fast() -> None:
    assert shipped(file("fp32", 1.0), file("int8", 0.1, WORSE)) == "fp32"
    assert shipped(file("fp32", 1.0), file("int8", 0.1, LEVEL)) == "int8"  # lower, but no more than chance gives
    assert shipped(file("fp32", 1.0), file("int8", 0.1, BETTER)) == "int8"
    found = file_to_ship([file("fp32", 1.0), file("int8", 0.1, WORSE)], "this CPU")
    assert found.words[1] == "less accurate"
    assert "-2.0 [-3.0, -1.0] points" in found.reasons[1]


def test_of_files_that_are_as_fast_the_most_exact_is_shipped() -> None:
    """Intervals of 1 %: 1.00 reaches to 1.01, and 3 % more to 1.0403; 1.045 begins at 1.035, and 1.055 at 1.045."""
    assert shipped(file("int8", 1.0), file("fp16", 1.045), file("fp32", 1.055)) == "fp16"
    found = file_to_ship([file("fp32", 1.01), file("int8", 1.0)], "this CPU")
    assert found.words == ("ship this", "as fast, less exact")
    assert found.reason.startswith("the fp32 file is as fast as any of the 2 files")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"against": ("rejected", "it loses a class")}, "rejected"),
        ({"verdict": Verdict("UNSTABLE", ("it drifted",))}, "UNSTABLE"),
        ({"verdict": Verdict("INVALID", ("3 runs",))}, "INVALID"),
        ({"p50_ms": None}, "not measured"),
        ({"tested": False}, "not tested"),
        ({"limits": {"max_params": LimitUse(share=1.2, status="over budget", reason="counted")}}, "over budget"),
        ({"limits": {"max_latency_ms": LimitUse(share=0.99, status="inconclusive", reason="it holds it")}}, "inconclusive"),
    ],
)
def test_a_file_is_shipped_only_if_it_passed_was_timed_and_tested_and_keeps_every_limit(
    change: dict[str, Any], word: str
) -> None:
    fast = file("int8", 0.1, SAME, **change)
    found = file_to_ship([file("fp32", 1.0), fast], "this CPU")
    assert (found.place, found.words[1]) == (0, word)
    assert found.reason == "the only file that could be shipped, and it keeps every limit"


def test_where_none_can_be_shipped_the_reason_is_that_of_the_most_exact_and_the_likely_one_is_named() -> None:
    shaky = Verdict("UNSTABLE", ("it drifted",))
    files = [file("int8", 0.5, verdict=shaky), file("fp32", 1.0, verdict=shaky)]
    found = file_to_ship(files, "this CPU")
    assert (found.place, found.likely) == (None, 0)
    assert found.reason.startswith("ONNX fp32: its time is UNSTABLE: it drifted; measure again")
    over = {"max_latency_ms": LimitUse(share=1.1, status="inconclusive", reason="UNSTABLE")}
    assert file_to_ship([replace(one, limits=over) for one in files], "this CPU").likely is None
    nothing = file_to_ship([], "this CPU")
    assert (nothing.place, nothing.likely, nothing.reason) == (None, None, "nothing was exported")


BUSY = Verdict("UNSTABLE", ("other programs kept 1 cores busy",))


def test_a_file_that_other_programs_slowed_is_shipped_if_it_is_within_the_limit_even_so() -> None:
    found = file_to_ship([file("fp32", 1.0, verdict=BUSY)], "this CPU")
    assert found.place == 0
    assert found.reason == (
        "the only file that could be shipped, and it keeps every limit, although other programs made its time longer"
    )
    assert shipped(file("fp32", 1.0, limits={}, verdict=BUSY)) is None, "without a limit its time is all there is to say"
    open_yet = {"max_latency_ms": LimitUse(share=1.1, status="inconclusive", reason="it lies above")}
    assert shipped(file("fp32", 1.0, limits=open_yet, verdict=BUSY)) is None
    assert shipped(file("fp32", 1.0, verdict=Verdict("UNSTABLE", ("it drifted",)))) is None


def test_of_files_that_other_programs_slowed_which_is_faster_is_open() -> None:
    found = file_to_ship([file("fp32", 1.0, verdict=BUSY), file("int8", 0.5, verdict=BUSY)], "this CPU")
    assert found.words == ("ship this", "less exact")
    assert found.reason.startswith("the fp32 file is the most exact of the 2 files that could be shipped")
    assert found.reasons[1] == "which is faster is open, since other programs ran (0.5 against 1 ms), and ONNX fp32 is more exact"
    # What takes 1 ms is slower than what takes 0.5 ms at most; what takes 0.5 ms may be as fast as what takes 1 ms at most.
    assert shipped(file("fp32", 1.0), file("int8", 0.5, verdict=BUSY)) == "int8"
    assert shipped(file("fp32", 1.0, verdict=BUSY), file("int8", 0.5)) == "fp32", "alone it may be as fast, and it is exact"


def test_without_limits_nothing_is_said_of_them() -> None:
    assert file_to_ship([file("fp32", 1.0, limits={})], "this CPU").reason == (
        "the only file that could be shipped, and it was measured VALID"
    )


def test_the_answer_is_the_rule_on_every_combination_and_in_every_order() -> None:
    """Against the rule written as a filter: passed, VALID, within, not significantly worse; then the least time."""
    rng = random.Random(0)
    levels, statuses = ("VALID", "UNSTABLE"), ("within budget", "over budget", "inconclusive")
    differences = (SAME, LEVEL, WORSE, BETTER)
    for _ in range(300):
        files = []
        for precision, ms in zip(("fp32", "fp16", "int8"), rng.sample([1.0, 2.0, 4.0], 3), strict=True):
            status = rng.choice(statuses)
            files.append(
                file(
                    precision, ms, rng.choice(differences), verdict=Verdict(rng.choice(levels)),
                    limits={"max_latency_ms": LimitUse(share=1.0, status=status, reason="")},
                )
            )  # fmt: skip
        eligible = [
            one
            for one in files
            if one.verdict == Verdict("VALID")
            and one.limits["max_latency_ms"].status == "within budget"
            and (one.difference is None or one.difference is not WORSE)
        ]
        expected = min(eligible, key=lambda one: one.p50_ms or 0).precision if eligible else None
        assert {shipped(*order) for order in itertools.permutations(files)} == {expected}
