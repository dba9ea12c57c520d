"""Two profiles compared: ratios and intervals by hand, and exit codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as plotly
import pytest

from autoformer.errors import MeasurementError
from autoformer.files import read_json
from autoformer.profiling.measuring.verdict import Verdict
from autoformer.profiling.profiles.regression import compare_profiles
from autoformer.profiling.reports.comparison_page import ratio_figure
from tests.support.batch_sweeps import profile
from tests.support.commands import command
from tests.support.pages import Page

SAMPLES = (9.9, 10.0, 10.1)


def scaled(factor: float) -> tuple[float, ...]:
    return tuple(factor * sample for sample in SAMPLES)


BEFORE = profile(1, 10.0, samples=SAMPLES)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.2, "slower"), (1.0, "no regression"), (0.9, "faster"), (1.05, "inconclusive")],
)
def test_a_regression_is_shown_when_the_whole_interval_lies_above_what_is_permitted(factor: float, verdict: str) -> None:
    found = compare_profiles([BEFORE], [profile(1, 10.0, samples=scaled(factor))], permitted=0.05).ratios
    assert [ratio.statistic for ratio in found] == ["p50"]  # 20 runs carry no p99
    assert found[0].ratio == pytest.approx(factor)
    # The reference always takes 1 ms; of 21 runs the interval of the median reaches from the 6th to the 16th, 9.9 to 10.1
    assert found[0].low == pytest.approx(factor * 9.9 / 10.1)
    assert found[0].high == pytest.approx(factor * 10.1 / 9.9)
    assert found[0].verdict == verdict


def test_a_machine_that_is_slower_altogether_is_no_regression() -> None:
    after = profile(1, 10.0, samples=scaled(1.3))
    slower = replace(after, reference=profile(1, 1.3).measurements[0])  # the reference takes 1.3 ms as well
    found = compare_profiles([BEFORE], [slower], permitted=0.05).ratios[0]
    assert found.ratio == pytest.approx(1.0)
    assert found.verdict == "no regression"


def test_each_batch_goes_with_the_reference_of_its_own_profile() -> None:
    before = [profile(batch, 10.0) for batch in (1, 2)]
    later = profile(2, 13.0)  # measured when the machine had become 1.3 times as slow, the reference with it
    after = [before[0], replace(later, reference=profile(1, 1.3).measurements[0])]
    assert [ratio.ratio for ratio in compare_profiles(before, after).ratios] == pytest.approx([1.0, 1.0])


def test_what_is_not_valid_shows_nothing() -> None:
    after = profile(1, 10.0, samples=scaled(2.0))
    doubtful = replace(after.measurements[0], verdict=Verdict("UNSTABLE", ("drift",)))
    found = compare_profiles([BEFORE], [replace(after, measurements=(doubtful,))], permitted=0.05).ratios[0]
    assert (found.verdict, found.reason) == ("inconclusive", "B is UNSTABLE: drift")


def test_other_devices_settings_and_batches_are_not_compared_unless_permitted() -> None:
    after = profile(1, 10.0, samples=SAMPLES)
    taken = after.measurements[0]
    elsewhere = replace(after, measurements=(replace(taken, device=replace(taken.device, cpu="Other CPU")),))
    with pytest.raises(MeasurementError, match="Other CPU"):
        compare_profiles([BEFORE], [elsewhere])
    assert compare_profiles([BEFORE], [elsewhere], other_device=True).ratios[0].ratio == pytest.approx(1.0)
    spinning = replace(after, measurements=(replace(taken, settings={"mode": "other"}),))
    with pytest.raises(MeasurementError, match="was measured with"):
        compare_profiles([BEFORE], [spinning])
    with pytest.raises(MeasurementError, match="no network in common"):
        compare_profiles([BEFORE], [profile(2, 10.0)])


def test_what_stands_in_one_profile_alone_is_named() -> None:
    other = profile(1, 10.0, name="b").measurements[0]
    found = compare_profiles([BEFORE], [replace(BEFORE, measurements=(*BEFORE.measurements, other))])
    assert (found.only_before, found.only_after) == ((), ("b, torch-cpu, fp32, batch 1",))


def test_the_answer_is_written_as_a_page_of_the_same_kind_as_reports(tmp_path: Path) -> None:
    for name, factor in (("a", 1.0), ("slow", 1.2)):
        profile(1, 10.0, samples=scaled(factor)).save(tmp_path / f"{name}.json")
    call = ("profile", "compare", tmp_path / "a.json", tmp_path / "slow.json", "--json")
    answer = command(*call, "--out", tmp_path / "page.html")
    assert answer.code == 1  # it is a regression all the same
    page = Page((tmp_path / "page.html").read_text())
    page.check_it_loads_nothing()
    assert any(cells[5:] == ["1.200 [1.176, 1.224]", "slower: the whole interval lies above 1.05"] for cells in page.rows)
    assert command(*call, "--out", tmp_path / "page.json").code == 1
    assert read_json(tmp_path / "page.json") == answer.json
    assert "expected one of .html, .md, .json" in command(*call, "--out", tmp_path / "page.pdf").error
    figure = ratio_figure(compare_profiles([BEFORE], [profile(1, 10.0, samples=scaled(1.2))]))
    (points,) = figure.views[""]["data"]
    plotly.Figure(figure.views[""])  # raises on a property that plotly does not have
    assert points["x"][0] + points["error_x"]["array"][0] == pytest.approx(1.2 * 10.1 / 9.9)


def test_the_exit_code_tells_a_regression(tmp_path: Path) -> None:
    for name, factor in (("a", 1.0), ("same", 1.0), ("slow", 1.2), ("near", 1.05)):
        profile(1, 10.0, samples=scaled(factor)).save(tmp_path / f"{name}.json")
    base = ("profile", "compare", tmp_path / "a.json")
    assert command(*base, tmp_path / "same.json").code == 0
    answer = command(*base, tmp_path / "slow.json", "--json")
    assert (answer.code, answer.json["regressions"]) == (1, 1)
    assert command(*base, tmp_path / "slow.json", "--max-regression", "30%").code == 0
    assert command(*base, tmp_path / "near.json").code == 0
    strict = command(*base, tmp_path / "near.json", "--strict")
    assert strict.code == 1
    assert "inconclusive" in strict.out
    both = profile(1, 10.0, samples=scaled(1.0))
    replace(both, measurements=(*both.measurements, replace(both.measurements[0], name="b"))).save(tmp_path / "both.json")
    more = ("profile", "compare", tmp_path / "both.json", tmp_path / "same.json")
    assert command(*more).code == 0
    assert command(*more, "--strict").code == 1  # B was never measured with one of them
    assert "write 5%" in command(*base, tmp_path / "same.json", "--max-regression", "0.05").error
