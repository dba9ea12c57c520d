"""Networks of any kind in one table: scores known by hand, times of scripted clocks, and what is missing with its reason."""

from __future__ import annotations

import math
import xml.etree.ElementTree as xml
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoformer.errors import CheckpointError, ExportError
from autoformer.export.graphs.onnx_graph import OnnxGraph
from autoformer.files import read_json, write_json
from autoformer.metric import newcombe, paired_difference, tied
from autoformer.networks.folders import save_subnet
from autoformer.profiling.measuring.verdict import UNSTABLE, Verdict
from autoformer.profiling.profiles.artefact_costs import Costs
from autoformer.profiling.profiles.as_onnx import write_as_onnx
from autoformer.profiling.profiles.comparison import Row, compare_artefacts, marked, with_ratios
from autoformer.profiling.profiles.latency import NotMeasured
from autoformer.profiling.reports.comparison_figure import Axis, comparison_figure, picture
from autoformer.profiling.reports.comparison_page import comparison_page, notes, save, table
from autoformer.profiling.reports.page import html, markdown
from tests.support.commands import command
from tests.support.comparisons import SHORT, comparison, rows_of
from tests.support.pages import Page
from tests.support.subnets import CLASSES, PREPROCESSING, make_subnet


def colour_reader(path: Path, order: tuple[int, int, int] = (0, 1, 2), batch: int | str = "batch", classes: int = 3) -> Path:
    """An ONNX file whose logits are the mean brightness of each channel, in this order. It says nothing of itself."""
    weights = np.eye(3, dtype=np.float32)[list(order)][:classes].T
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "colour", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])], [numpy_helper.from_array(weights, "weights")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


# --- from the command line ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> tuple[Any, Path]:
    """Three files made by hand on images whose class is their brightest channel, and one of other classes."""
    folder = tmp_path_factory.mktemp("compared")
    colour_reader(folder / "knows.onnx")
    colour_reader(folder / "confuses.onnx", (0, 2, 1))
    colour_reader(folder / "two.onnx", classes=2)
    out = folder / "page.html"
    words = [folder / f"{name}.onnx" for name in ("knows", "confuses", "two")]
    settings = ("--part", "test", "--ledger", folder / "ledger.json", "--seconds", "0.01", "--out", out, "--json", "--quiet")
    answer = command("compare", *words, "--data", image_folder, *settings)
    assert answer.code == 0, answer.err
    return answer.json, folder


def test_scores_are_those_that_are_known_by_hand(compared: tuple[Any, Path]) -> None:
    knows, confuses, two = compared[0]["rows"]
    assert (knows["score"]["value"], knows["difference"]) == (1.0, None)
    assert confuses["score"]["value"] == pytest.approx(1 / 3, abs=0.02)  # one class of three equally large ones is right
    assert confuses["difference"]["value"] == pytest.approx(confuses["score"]["value"] - 1)
    assert confuses["difference"]["low"] < confuses["difference"]["value"] < confuses["difference"]["high"] < 0
    assert not confuses["difference"]["tied"]
    assert two["score"] is None


def test_everything_was_measured_in_one_go_and_what_was_not_has_its_reason(compared: tuple[Any, Path]) -> None:
    answer, folder = compared
    for row in answer["rows"]:
        assert row["latency"]["backend"] == "onnxruntime-cpu"
        assert row["latency"]["p50_low_ms"] <= row["latency"]["p50_ms"] <= row["latency"]["p50_high_ms"]
        assert row["ratio"] == pytest.approx(row["latency"]["p50_ms"] / answer["rows"][0]["latency"]["p50_ms"])
        assert row["params"] == (6 if row["name"] == "two.onnx" else 9)
        assert (row["flops"], row["bytes"]) == (None, (folder / row["name"]).stat().st_size)
    reasons = {item["name"]: item["reason"] for item in answer["not_measured"] if item["backend"] == "accuracy"}
    assert set(reasons) == {"two.onnx"}
    assert "logits of 2 classes, expected 3" in reasons["two.onnx"]


def test_each_reading_of_the_test_part_is_counted(compared: tuple[Any, Path]) -> None:
    answer, folder = compared
    readings = read_json(folder / "ledger.json")["readings"]
    assert [Path(reading["reader"]).name for reading in readings] == ["knows.onnx", "confuses.onnx", "two.onnx"]
    assert (answer["part"], answer["images"], answer["split"]) == ("test", readings[0]["images"], readings[0]["split"])


def test_how_often_the_test_part_was_read_is_said_at_each_reading(tmp_path: Path, image_folder: Path) -> None:
    file = colour_reader(tmp_path / "knows.onnx")
    words = ("compare", file, "--data", image_folder, "--part", "test", "--seconds", "0.01", "--quiet")
    for times in ("for the first time", "2 times by now"):
        assert f"the test part was read {times}" in command(*words).err


def test_the_page_shows_the_rows_and_loads_nothing(compared: tuple[Any, Path]) -> None:
    page = Page((compared[1] / "page.html").read_text())
    for number, row in enumerate(compared[0]["rows"], 1):
        shown = next(cells for cells in page.rows if cells[0].split()[0] == str(number) and row["name"] in cells[0])
        assert shown[6] == "onnxruntime-cpu fp32"
        assert (shown[1] == "–") == (row["score"] is None)
    assert any("knows.onnx" in cells[0] and cells[1].startswith("100 %") for cells in page.rows)
    assert any(cells[:2] == ["two.onnx", "accuracy"] and "logits of 2 classes" in cells[2] for cells in page.rows)
    assert "Times were measured in turns, in one session: p50, batch 1, fp32, onnxruntime-cpu" in page.text
    page.check_it_loads_nothing()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.onnx",), "nowhere.onnx does not exist; expected the folder of a network"),
        (("timm:test_vitt@x.pth",), "did you mean test_vit"),
        (("README.md", "--out", "table.pdf"), "expected one of .html, .md, .json, .svg"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(words: tuple[str, ...], said: str) -> None:
    assert said in command("compare", *words, "--quiet").error


@pytest.mark.parametrize("words", [("compare",), ("evaluate",), ("profile", "run")])
def test_a_folder_above_networks_is_answered_with_them_and_one_without_any_says_so(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    entrant = tmp_path / "race" / "entrants" / "finalist-1"
    kept, dropped = entrant / "x1" / "network", entrant / "x0.5" / "network"
    for folder in (kept, dropped):  # as a race leaves them
        folder.mkdir(parents=True)
        write_json({"kind": "subnet"}, folder / "identity.json")
        (folder.parent / "after-10.json").touch()
    write_json({}, kept / "config.json")
    assert f"is a folder without a network, networks lie deeper in it, give {kept}; exp" in command(*words, entrant).error
    assert "its race ended this training early, and no weights are kept of it" in command(*words, dropped).error
    assert "no network lies deeper in it either" in command(*words, dropped.parent).error


def test_without_images_size_and_time_are_compared(tmp_path: Path) -> None:
    files = [colour_reader(tmp_path / "any.onnx"), colour_reader(tmp_path / "three.onnx", batch=3)]
    found = compare_artefacts([str(file) for file in files], None, config=SHORT)
    assert [row.score for row in found.rows] == [None, None]
    assert [row.measurement.batch for row in found.rows if row.measurement] == [3, 3]  # what one fixes, all are measured with
    assert [item.reason for item in found.missing if item.backend == "accuracy"] == ["there are no images; give --data"] * 2
    assert found.words == "no images"


# --- what follows from the figures -------------------------------------------------------------------------------


def test_rows_that_none_beats_in_both_are_marked_among_their_backend() -> None:
    times = {"slow": 4.0, "fast": 1.0, "beaten": 4.0, "gpu_only": 0.1, "equal": 1.0}
    right = {"slow": 90, "fast": 80, "beaten": 70, "gpu_only": 60, "equal": 80, "untimed": 100}
    found = {row.name: row.pareto for row in marked(rows_of(times, right))}
    assert found == {"slow": True, "fast": True, "beaten": False, "gpu_only": True, "equal": True, "untimed": False}


def test_times_are_related_to_the_first_on_the_same_backend() -> None:
    rows = rows_of({"first": 2.0, "other": 5.0, "gpu_other": 1.0}, {"first": 1, "other": 1, "gpu_other": 1})
    assert [row.ratio for row in with_ratios(rows)] == [1.0, 2.5, None]


def test_times_in_another_precision_are_related_within_one_network_alone() -> None:
    """int8 of the first's export is half as slow; int8 of another network says nothing of the two networks."""
    rows = rows_of({"fp32": 2.0, "int8": 1.0, "other": 1.0}, {"fp32": 1, "int8": 1, "other": 1})
    in_int8 = [replace(row, measurement=row.measurement and replace(row.measurement, precision="int8")) for row in rows[1:]]
    own, other = replace(in_int8[0], network="runs/export"), replace(in_int8[1], network="runs/other")
    found = with_ratios([replace(rows[0], network="runs/export"), own, other])
    assert [row.ratio for row in found] == [1.0, 0.5, None]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """The folder of a network of torch."""
    save_subnet(make_subnet(), tmp_path / "net", preprocessing=PREPROCESSING, classes=CLASSES, record={"made_by": "a test"})
    return tmp_path / "net"


def test_a_network_of_torch_is_timed_as_the_onnx_file_that_would_be_deployed(network: Path, tmp_path: Path) -> None:
    graph = OnnxGraph.from_network(make_subnet(), tmp_path / "same.onnx")
    found = compare_artefacts([str(network), str(graph.path)], None, config=SHORT)
    taken = [row.measurement for row in found.rows]
    assert [one and (one.backend, one.precision) for one in taken] == [("onnxruntime-cpu", "fp32")] * 2
    assert [row.name for row in found.rows] == ["net", "same.onnx"]
    assert found.rows[0].costs.bytes == pytest.approx(graph.path.stat().st_size, rel=0.05)  # it says more of itself
    assert found.rows[0].ratio == 1.0
    assert found.rows[1].ratio is not None


def test_a_network_that_cannot_be_written_as_onnx_has_no_time_and_the_reason(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(words: str, path: Path) -> Path:
        raise ExportError("it has an operator that ONNX lacks")

    monkeypatch.setattr("autoformer.profiling.profiles.comparison.write_as_onnx", refused)
    found = compare_artefacts([str(colour_reader(tmp_path / "file.onnx")), str(network)], None, config=SHORT)
    assert [row.measurement is None for row in found.rows] == [False, True]
    reasons = [item.reason for item in found.missing if (item.name, item.backend) == ("net", "latency")]
    assert reasons == ["it has an operator that ONNX lacks"]


def test_what_cannot_be_opened_ends_the_comparison_before_anything_is_scored_or_measured(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = colour_reader(tmp_path / "file.onnx")
    (network / "model.safetensors").write_bytes(b"no weights")
    worked: list[object] = []
    for name in ("profile_artefacts", "write_as_onnx", "open_predictor"):
        monkeypatch.setattr(f"autoformer.profiling.profiles.comparison.{name}", lambda *given, **_: worked.append(given))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        compare_artefacts([str(file), str(network)], None, config=SHORT)
    assert worked == []


def test_an_onnx_file_that_answers_otherwise_than_its_network_is_not_compared(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(path: Path) -> Any:
        return lambda images: np.ones((len(images), len(CLASSES)), np.float32)

    monkeypatch.setattr("autoformer.profiling.profiles.as_onnx.OnnxModel", other)
    with pytest.raises(ExportError, match="differs from the network: logits differ by"):
        write_as_onnx(str(network), tmp_path / "net.onnx")


def test_the_interval_of_a_paired_difference_is_the_published_one() -> None:
    # Newcombe (Statistics in Medicine 17, 1998, 2635-2650), method 10, cells 36, 12, 2, 0: 0.20 from 0.0569 to 0.3404.
    second, first = np.repeat([1, 1, 0, 0], (36, 12, 2, 0)) > 0, np.repeat([1, 0, 1, 0], (36, 12, 2, 0)) > 0
    assert newcombe(first, second) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)
    value, low, high = newcombe(second, first)
    assert (value, low, high) == pytest.approx((-0.2, -0.3404, -0.0569), abs=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_the_interval_of_a_mean_over_classes_holds_what_new_images_show(metric: Any) -> None:
    rng = np.random.default_rng(0)

    def drawn(images: int) -> tuple[Any, Any, Any]:
        labels = np.arange(images) % 3
        first = np.where(rng.random(images) < 0.7, labels, rng.integers(0, 3, images))
        return first, np.where(rng.random(images) < 0.5, labels, first), labels

    truth = paired_difference(*drawn(300_000), metric).value
    intervals = [paired_difference(*drawn(300), metric) for _ in range(200)]
    assert all(one.low is not None and one.high is not None for one in intervals)
    covered = sum(one.low <= truth <= one.high for one in intervals if one.low is not None and one.high is not None)
    assert 180 <= covered <= 198  # 95 % of 200 give 190; beyond these lie 0.4 % and 1 %


def test_equal_predictions_are_tied_and_leave_the_mean_over_classes_open() -> None:
    labels = np.arange(30) % 3
    same = paired_difference(labels, labels, labels, "macro_f1")
    assert (same.value, same.low, same.high, same.tied) == (0.0, None, None, True)
    assert paired_difference(labels, labels, labels).tied == tied(labels, labels, labels)


# --- pictures ----------------------------------------------------------------------------------------------------


def test_an_axis_puts_values_where_they_belong() -> None:
    even, logarithmic = Axis(0, 10, 100, 200), Axis(1, 100, 100, 200, logarithmic=True)
    assert [even(value) for value in (0, 2.5, 10)] == [100, 125, 200]
    assert [logarithmic(value) for value in (1, 10, 100)] == [100, 150, 200]
    assert even.ticks == [0, 2, 4, 6, 8, 10]
    assert logarithmic.ticks == [1, 2, 5, 10, 20, 50, 100]


def test_the_figure_is_sound_whatever_names_hold(tmp_path: Path) -> None:
    rows = rows_of({"a": 1.0, "b": 1.01, "gpu": 90.0}, {"a": 90, "b": 95, "gpu": 97, "untimed": 99})
    rows[0] = Row(**{**vars(rows[0]), "name": "<b>&\"'"})
    drawn = xml.fromstring(picture(comparison(*rows)))
    circles = drawn.findall(".//{*}circle")
    assert len(circles) == 3
    assert [float(circle.get("cy", "")) for circle in circles] == sorted([float(c.get("cy", "")) for c in circles], reverse=True)
    texts = ["".join(text.itertext()) for text in drawn.findall(".//{*}text")]
    assert "1  <b>&\"'" in texts
    assert "4  untimed (not drawn)" in texts
    numbers = [(float(t.get("x", "")), float(t.get("y", ""))) for t in drawn.findall(".//{*}text") if t.text in ("1", "2", "3")]
    assert all(math.dist(a, b) > 10 for a in numbers for b in numbers if a != b)
    whole = comparison_page(comparison(*rows, missing=(NotMeasured("<b>&", "x", "<i>"),)))
    assert "<b>&" not in html(whole)
    assert "<b>" not in markdown(whole)
    for name in ("plot.svg", "page.html", "page.md", "page.json"):
        save(comparison(*rows), tmp_path / name)
    assert read_json(tmp_path / "page.json") == comparison(*rows).to_dict()
    assert xml.parse(tmp_path / "plot.svg").getroot().tag.endswith("svg")


def test_the_page_draws_every_interval_and_the_front_of_each_backend() -> None:
    import plotly.graph_objects as plotly

    rows = marked(
        rows_of({"a": 1.0, "b": 1.5, "slow": 2.0, "gpu": 90.0}, {"a": 90, "b": 95, "slow": 80, "gpu": 97, "untimed": 99})
    )
    figure = comparison_figure(comparison(*rows))
    assert figure is not None
    plot = figure.views[""]
    plotly.Figure(plot)  # raises on a property that plotly does not have
    drawn = {trace["name"]: trace for trace in plot["data"]}
    assert list(drawn) == ["Pareto front, torch-cpu", "torch-cpu", "torch-cuda"]
    assert (drawn["torch-cpu"]["text"], drawn["torch-cuda"]["text"]) == (["1", "2", "3"], ["4"])
    assert drawn["torch-cpu"]["x"] == pytest.approx([1.0, 1.5, 2.0])
    assert drawn["torch-cpu"]["y"] == pytest.approx([90, 95, 80])
    assert drawn["torch-cpu"]["marker"]["symbol"] == ["circle", "circle", "circle-open"]
    assert drawn["Pareto front, torch-cpu"]["y"] == pytest.approx([90, 95])
    score_of_a = rows[0].score
    assert score_of_a is not None
    assert drawn["torch-cpu"]["error_y"]["array"][0] == pytest.approx(100 * (score_of_a.high - score_of_a.value))
    assert drawn["torch-cpu"]["error_y"]["arrayminus"][0] == pytest.approx(100 * (score_of_a.value - score_of_a.low))
    assert drawn["torch-cpu"]["error_x"]["array"][0] == 0  # every run took as long
    assert plot["layout"]["xaxis"]["type"] == "log"


def test_nothing_to_draw_is_said() -> None:
    bare = comparison(Row(name="a", costs=Costs(params=5_900_000, flops=1_300_000_000, bytes=2_500_000)))
    assert "nothing has both a score and a time" in picture(bare)
    assert comparison_figure(bare) is None
    assert "No figure is drawn: nothing has both a score and a time." in markdown(comparison_page(bare))
    assert table(bare) == [("1", "a", "–", "", "5.9M", "1.3G", "2.5 MB", "–", "–", "–", "–")]
    assert notes(bare)[0].startswith("Scores are accuracy on 100 images of the search part")


def test_a_time_that_is_not_to_be_relied_upon_has_its_reason_and_what_to_do() -> None:
    steady, other = rows_of({"a": 1.0, "b": 2.0}, {"a": 90, "b": 80})
    assert other.measurement is not None
    unsteady = replace(other, measurement=replace(other.measurement, verdict=Verdict(UNSTABLE, ("drift 9 %, limit 5 %",))))
    said = notes(comparison(steady, unsteady))
    assert "b is UNSTABLE: drift 9 %, limit 5 %." in said
    assert "--seconds" in said[said.index("b is UNSTABLE: drift 9 %, limit 5 %.") + 1]
    assert not any("--seconds" in line for line in notes(comparison(steady)))


def test_networks_that_take_images_of_different_sizes_say_which() -> None:
    one, other = rows_of({"a": 1.0, "b": 2.0}, {"a": 90, "b": 80})
    sizes = [replace(one, image_size=64), replace(other, image_size=224)]
    assert [row[1] for row in table(comparison(*sizes))] == ["a, 64 px", "b, 224 px"]
    assert [row[1] for row in table(comparison(*(replace(row, image_size=64) for row in sizes)))] == ["a", "b"]
