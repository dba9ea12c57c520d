"""`board.pyz verify`: each file against its own answers where the bundle was made, whatever becomes of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from autoformer.cli.board.bundle_program import main
from autoformer.cli.board.judging import LOWER, Finding, by_chance
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import MissingPackageError
from autoformer.export.bundle import write_bundle
from autoformer.export.expected import ExpectedResults
from autoformer.export.graphs.onnx_model import OnnxModel
from autoformer.export.manifest import Artefact, Manifest, sha256_of
from autoformer.export.parity import TOLERANCES, Tolerance, compare, rerun_tolerance
from autoformer.files import read_json

PREPROCESSING = Preprocessing(8, 1, (0.5,), (0.25,))
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
WEIGHTS: NDArray[np.float32] = np.random.default_rng(1).standard_normal((64, 3), np.float32)
ACCEPTED = Tolerance(max_abs=None, min_cosine=0.5, max_disagreement=0.5)  # as `export --max-disagreement 0.5` writes it
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def network(path: Path, precision: str, weights: NDArray[np.float32] = WEIGHTS) -> Path:
    """One product, in full, in half precision, or in int8 with steps so coarse that borderline images change sides."""
    nodes = [helper.make_node("Flatten", ["images"], ["flat"])]
    stored: dict[str, Any] = {"w": weights}
    if precision == "fp16":
        stored = {"w": weights.astype(np.float16)}
        nodes += [helper.make_node("Cast", ["flat"], ["half"], to=HALF), helper.make_node("MatMul", ["half", "w"], ["product"])]
        nodes += [helper.make_node("Cast", ["product"], ["logits"], to=FLOAT)]
    elif precision == "int8":
        scale = np.float32(np.abs(weights).max() / 6)
        stored = {
            "w8": np.clip(np.round(weights / scale), -127, 127).astype(np.int8), "ws": scale, "z": np.int8(0),
            "xs": np.float32(0.2),
        }  # fmt: skip
        nodes += [
            helper.make_node("QuantizeLinear", ["flat", "xs", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "xs", "z"], ["d"]),
        ]
        nodes += [
            helper.make_node("DequantizeLinear", ["w8", "ws", "z"], ["w"]),
            helper.make_node("MatMul", ["d", "w"], ["logits"]),
        ]
    else:
        nodes.append(helper.make_node("MatMul", ["flat", "w"], ["logits"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def entry(path: Path, precision: str, exact: NDArray[np.float32]) -> Artefact:
    given = OnnxModel(path)(PREPROCESSING.normalise(PIXELS))
    parity = compare(exact, given, precision=precision, tolerance=ACCEPTED if precision == "int8" else None)
    assert parity.passed or precision == "fp16", parity.reason
    return Artefact(
        format="onnx", precision=precision, status="exported", reason=parity.reason, file=path.name, sha256=sha256_of(path),
        bytes=path.stat().st_size, input_name="images", input_shape=("batch", 1, 8, 8), output_name="logits", parity=parity,
    )  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of three files, of which int8 names other classes than fp32 of some of the check images."""
    (source := tmp_path / "source").mkdir()
    files = {precision: network(source / f"model.{precision}.onnx", precision) for precision in ("fp32", "fp16", "int8")}
    exact = OnnxModel(files["fp32"])(PREPROCESSING.normalise(PIXELS))
    artefacts = tuple(entry(path, precision, exact) for precision, path in files.items())
    Manifest(artefacts, ("ape", "bee", "cat"), PREPROCESSING, params=192).save(source)
    expected = ExpectedResults(name="small", labels=tuple(int(label) for label in exact.argmax(1)))
    return write_bundle(source, tmp_path / "bundle", expected, pixels=PIXELS, program=b"")


def verified(bundle: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["--bundle", str(bundle), "verify", "--json", "--seconds", "0.01"])
    said = capsys.readouterr()
    assert code in (0, 1), said.err
    return code, json.loads(said.out)["artefacts"]


def edited(bundle: Path, path: str, change: Any) -> None:
    """Changes a JSON file of the bundle."""
    record = read_json(bundle / path)
    change(record)
    (bundle / path).write_text(json.dumps(record))


def signed(bundle: Path) -> None:
    """Writes the digests of the files as they are now, as whoever changed them would."""

    def sign(record: dict[str, Any]) -> None:
        for artefact in record["artefacts"]:
            artefact["sha256"] = sha256_of(bundle / artefact["file"])

    edited(bundle, "manifest.json", sign)
    edited(
        bundle, "bundle.json", lambda record: record.update(files={name: sha256_of(bundle / name) for name in record["files"]})
    )


def test_an_accepted_int8_file_that_names_other_classes_than_fp32_verifies_where_it_was_made(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, exact = (np.load(bundle / "check" / name) for name in ("logits.int8.npy", "logits.npy"))
    assert (own.argmax(1) != exact.argmax(1)).sum() > 3  # which the fixed tolerance refuses
    assert not compare(exact, own, precision="int8").passed
    code, found = verified(bundle, capsys)
    assert (code, {entry["status"] for entry in found.values()}) == (0, {"matches"})
    assert set(found) == {"onnx fp32", "onnx fp16", "onnx int8"}
    labels = exact.argmax(1)
    assert found["onnx int8"]["right"] == found["onnx int8"]["right there"] == (own.argmax(1) == labels).sum() < 64
    assert found["onnx int8"]["compared with"] == "what the file gave where the bundle was made"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_with_other_weights_and_fitting_digests_does_not_verify(
    bundle: Path, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = WEIGHTS.copy()
    other[:8] *= -1  # one in eight
    network(bundle / f"model.{precision}.onnx", precision, other)
    signed(bundle)
    code, found = verified(bundle, capsys)
    assert code == 1
    assert {name: entry["status"] for name, entry in found.items() if entry["status"] != "matches"} == {
        f"onnx {precision}": "does not match"
    }


def test_a_bundle_of_an_earlier_version_is_judged_by_the_fp32_file_with_the_tolerance_of_its_export_and_says_so(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(bundle, "bundle.json", lambda record: record.pop("logits"))
    code, found = verified(bundle, capsys)
    assert (code, found["onnx int8"]["status"]) == (0, "matches")
    assert "the bundle holds no logits of this file" in found["onnx int8"]["compared with"]
    assert "right there" not in found["onnx int8"]
    assert "right there" in found["onnx fp32"]
    edited(bundle, "manifest.json", lambda record: record["artefacts"][2].pop("parity"))
    edited(bundle, "bundle.json", lambda record: record["files"].update({"manifest.json": sha256_of(bundle / "manifest.json")}))
    code, found = verified(bundle, capsys)
    assert (code, found["onnx int8"]["status"]) == (1, "does not match")  # by the fixed tolerance, without another


def test_a_file_that_does_not_load_is_not_run_and_the_others_are_verified_and_measured(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        """Of a board whose ONNX Runtime has no kernels of half precision."""

        def __init__(self, path: str, *words: Any, **named: Any) -> None:
            if "fp16" in path:
                raise RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Failed to find kernel for BiasGelu(1)")
            super().__init__(path, *words, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    code, found = verified(bundle, capsys)
    assert code == 1
    assert {name: entry["status"] for name, entry in found.items()} == {
        "onnx fp32": "matches", "onnx fp16": "not run", "onnx int8": "matches",
    }  # fmt: skip
    assert "runs here: Failed to find kernel for BiasGelu(1)" in found["onnx fp16"]["reason"]
    assert main(["--bundle", str(bundle), "bench", "--json", "--seconds", "0.01"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["measurements"]) == {"onnx fp32", "onnx int8"}
    assert "Failed to find kernel" in answer["not measured"]["onnx fp16"]


def test_a_damaged_file_is_not_measured_and_the_others_are(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "model.fp16.onnx").write_bytes(b"other")
    assert main(["--bundle", str(bundle), "bench", "--json", "--seconds", "0.01"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["measurements"]) == {"onnx fp32", "onnx int8"}
    assert "not the file that the manifest describes" in answer["not measured"]["onnx fp16"]


def test_a_runtime_that_is_not_installed_is_no_fault_of_the_files(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Model(OnnxModel):
        def __init__(self, path: Path) -> None:
            if "fp16" in path.name:
                raise MissingPackageError("it is not installed")
            super().__init__(path)

    monkeypatch.setattr("autoformer.export.graphs.onnx_model.OnnxModel", Model)
    code, found = verified(bundle, capsys)
    assert (code, found["onnx fp16"]) == (0, {"status": "not run", "reason": "it is not installed"})


def test_logits_of_another_file_than_bundle_json_names_inside_its_folder_are_not_read(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(bundle, "bundle.json", lambda record: record["logits"].update({"onnx int8": "../outside.npy"}))
    assert main(["--bundle", str(bundle), "verify"]) == 2
    assert "not inside its folder" in capsys.readouterr().err


# --- thresholds --------------------------------------------------------------------------------------------------


def test_int8_may_be_off_elsewhere_by_what_quantisation_changed_and_half_precision_by_its_rounding() -> None:
    exact = np.asarray([[10.0, 0.0], [0.0, 10.0]], np.float32)
    assert rerun_tolerance(exact, exact, precision="fp32") == TOLERANCES["fp32"]
    assert rerun_tolerance(exact, exact, precision="fp16") == TOLERANCES["fp16"]
    assert rerun_tolerance(exact, exact, precision="int8").max_abs == TOLERANCES["fp16"].max_abs  # without any noise
    own = exact + np.asarray([[0.5, 0.0], [0.0, 0.0]], np.float32)
    found = rerun_tolerance(own, exact, precision="int8", accepted=ACCEPTED)
    assert found.max_abs == pytest.approx(1.5 * 0.5 / 10.5)
    assert (found.min_cosine, found.max_disagreement) == (ACCEPTED.min_cosine, ACCEPTED.max_disagreement)


def test_a_borderline_image_may_change_sides_within_the_tolerance_and_a_decided_one_not() -> None:
    own, moved = np.asarray([[1.0, 0.99], [5.0, 0.0]], np.float32), np.asarray([[0.99, 1.0], [5.0, 0.0]], np.float32)
    assert not compare(own, moved, precision="fp16").passed  # of two files
    assert compare(own, moved, precision="fp16", undecided=0.04).passed
    turned = np.asarray([[1.0, 0.99], [0.0, 5.0]], np.float32)
    assert not compare(own, turned, precision="fp16", undecided=0.04).passed


@pytest.mark.parametrize(
    ("lost", "won", "chance"), [(0, 0, 1.0), (4, 0, 1 / 16), (5, 0, 1 / 32), (5, 1, 7 / 64), (1, 5, 63 / 64)]
)
def test_accuracy_is_lower_where_chance_would_rarely_lose_so_many_images(lost: int, won: int, chance: float) -> None:
    assert by_chance(lost, won) == pytest.approx(chance)


def test_answers_within_tolerance_with_lower_accuracy_are_not_as_they_should_be() -> None:
    logits = np.eye(3, dtype=np.float32)
    parity = compare(logits, logits, precision="fp32")
    assert Finding(parity, 3, 3, None, "x").good
    assert not Finding(parity, 1, 3, LOWER, "x").good


def test_a_limit_names_the_file_that_was_timed_for_it_or_why_none_was(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = {"budget": {"max_latency_ms": 1e6}, "latency_means": "p50, batch 1, fp32, onnxruntime-cpu, here"}
    edited(bundle, "bundle.json", lambda record: record.update(stated, ship="model.int8.onnx"))

    def lines() -> list[str]:
        main(["--bundle", str(bundle), "verify", "--seconds", "0.01"])
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("max_latency_ms")]

    row, *rest = lines()
    assert row.split("  ")[2] == "onnx int8"
    assert "timed here was onnx int8, since model.int8.onnx is the file to ship" in rest[-1]

    def refuses(*_: object, **__: object) -> None:
        raise MissingPackageError("it is not installed")

    monkeypatch.setattr("autoformer.profiling.backends.onnxruntime_backend.OnnxRuntimeBackend", refuses)
    assert "max_latency_ms: no runtime here measures it; onnx int8: it is not installed" in lines()


@pytest.mark.parametrize("command", ["bench", "verify"])
def test_a_person_gets_a_short_table(command: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(bundle), command, "--seconds", "0.01"]) in (0, 1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 12  # three files with what may speak against the time of each
    assert lines[-1] == "--json has the rest"
    assert any(line.startswith("onnx fp32 ") for line in lines)
