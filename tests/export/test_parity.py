"""Comparing logits, and the manifest that records it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoformer.architecture import Architecture
from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import CheckpointError, ExportError
from autoformer.export.manifest import Artefact, Manifest, check_inside, sha256_of
from autoformer.export.parity import Parity, compare, run_in_batches
from autoformer.files import read_json
from autoformer.records import fields_to_json, from_json
from tests.support.comparing import compare_models

LOGITS = np.array([[1.0, 0.0, 2.0], [3.0, -1.0, 0.0], [0.0, 4.0, 1.0], [2.0, 1.0, 0.0]], dtype=np.float32)


def test_differences_are_those_computed_by_hand() -> None:
    given = LOGITS.copy()
    given[1] = [0.0, -1.0, 3.0]  # another class; the angle to [3, -1, 0] has cosine 1 / 10
    parity = compare(LOGITS, given, precision="int8")
    assert (parity.images, parity.max_abs, parity.top1_agreement, parity.disagreement) == (4, 3.0, 0.75, 0.25)
    assert parity.mean_abs == pytest.approx(6 / 12)
    assert parity.cosine == pytest.approx(0.1)
    assert not parity.passed
    assert "1 of 4 images (25.00%)" in parity.reason


def test_fp32_passes_within_rounding_of_the_largest_logit_only() -> None:
    offset = np.zeros_like(LOGITS)
    offset[0, 0] = 3.9e-4  # the largest logit is 4, so 4e-4 is allowed
    assert compare(LOGITS, LOGITS + offset, precision="fp32").passed
    offset[0, 0] = 4.2e-4
    failed = compare(LOGITS, LOGITS + offset, precision="fp32")
    assert not failed.passed
    assert "logits differ by 0.00042" in failed.reason


def test_undecided_images_may_turn_within_rounding_in_fp32_but_count_in_int8() -> None:
    reference = np.array([[1.0, 1.00001]], dtype=np.float32)
    turned = np.array([[1.00001, 1.0]], dtype=np.float32)
    assert compare(reference, turned, precision="fp32").passed
    assert compare(reference, turned, precision="int8").disagreement == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_non_finite_logits_fail_in_every_precision(bad: float, precision: str) -> None:
    given = LOGITS.copy()
    given[2, 0] = bad
    parity = compare(LOGITS, given, precision=precision)
    assert parity.non_finite == 1
    assert not parity.passed
    assert "infinite or not a number" in parity.reason
    json.dumps(fields_to_json(parity), allow_nan=False)


def test_a_dead_candidate_does_not_pass_as_parallel() -> None:
    assert compare(LOGITS, np.zeros_like(LOGITS), precision="int8").cosine == 0.0


def test_comparison_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(ExportError, match="expected equal shapes"):
        compare(LOGITS, LOGITS[:2], precision="fp32")
    with pytest.raises(ExportError, match="known are fp32, tf32, fp16, int8"):
        compare(LOGITS, LOGITS, precision="fp8")
    with pytest.raises(ExportError, match="source network"):
        compare(np.full_like(LOGITS, np.inf), LOGITS, precision="fp32")
    with pytest.raises(ExportError, match="no images"):
        run_in_batches(lambda images: images, LOGITS[:0], (1,))


def test_a_model_that_mixes_images_of_a_batch_is_caught() -> None:
    def sound(images: np.ndarray) -> np.ndarray:
        return images[:, 0, 0, :]

    def mixing(images: np.ndarray) -> np.ndarray:
        return np.asarray(sound(images) + images.mean(0)[0, 0] - images[0, 0, 0] * (len(images) == 1))

    images = np.random.default_rng(0).standard_normal((9, 1, 1, 4), dtype=np.float32)
    good = compare_models(sound, sound, images)
    assert good.passed
    assert good.batches == (1, 2, 5)  # 1 + 2 + 5, and 1 again for the ninth image
    assert not compare_models(sound, mixing, images).passed


def manifest(**changes: object) -> Manifest:
    exported = Artefact(
        format="onnx", precision="fp32", status="exported", reason="equal", file="model.fp32.onnx", sha256="ab", bytes=3,
        input_name="images", input_shape=("batch", 1, 8, 8), output_name="logits",
        parity=compare(LOGITS, LOGITS, precision="fp32", batches=(1, 2)), correct=3, made={"opset": 20},
    )  # fmt: skip
    whole = Manifest(
        artefacts=(exported, Artefact(format="tensorrt", precision="fp32", status="skipped", reason="no TensorRT")),
        classes=("a", "b", "ü"),
        preprocessing=Preprocessing(image_size=8, in_chans=1, mean=(0.5,), std=(0.25,)),
        params=10,
        architecture=Architecture(embed_dim=16, num_heads=(2,), mlp_ratio=(1.5,)),
        flops=20,
        weights_digest="cd",
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_manifest_survives_the_way_through_its_file(tmp_path: Path) -> None:
    manifest().save(tmp_path)
    assert Manifest.load(tmp_path) == manifest()
    assert read_json(tmp_path / "manifest.json")["format"] == "autoformer/manifest/1"


@pytest.mark.parametrize(
    "name", ["../model.onnx", "/etc/passwd", "a/../../b", "C:\\model.onnx", "..\\model.onnx", "\\\\host\\share\\x", "", "."]
)
def test_manifest_that_points_outside_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not inside its folder"):
        check_inside(name)
    values = manifest().to_dict()
    values["artefacts"][0]["file"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="manifest"):
        Manifest.load(tmp_path)


def test_link_that_leads_outside_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    outside.write_bytes(b"abc")
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model.fp32.onnx").symlink_to(outside)
    artefact = replace(manifest().artefacts[0], sha256=sha256_of(outside))
    with pytest.raises(CheckpointError, match="leads outside"):
        manifest().verified_file(folder, artefact)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read as JSON"),
        (lambda text: text.replace("autoformer/manifest/1", "autoformer/manifest/9"), "expected 'autoformer/manifest/1'"),
        (lambda text: text.replace('"skipped"', '"perhaps"'), "expected one of exported, built, rejected, skipped"),
        (lambda text: text.replace('"params"', '"parameters"'), "unknown keys"),
        (lambda text: text.replace('"max_abs"', '"maxabs"'), r"parity has unknown keys \['maxabs'\]"),
        (lambda text: text.replace('"classes"', '"params"', 1), "lacks 'classes'"),
        (lambda text: text.replace('"mlp_ratio"', '"ratio"'), "missing keys .'mlp_ratio'"),
        (lambda text: text.replace('"params": 10', '"params": -1'), "params is -1, expected a whole number"),
    ],
)
def test_damaged_manifest_is_one_clear_line(damage: object, message: str, tmp_path: Path) -> None:
    manifest().save(tmp_path)
    path = tmp_path / "manifest.json"
    text = json.dumps(read_json(path), indent=2, sort_keys=True)  # as by hand, without its digest
    path.write_text(damage(text))  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message) as caught:
        Manifest.load(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_changed_file_is_not_taken_for_the_proved_one(tmp_path: Path) -> None:
    (tmp_path / "model.fp32.onnx").write_bytes(b"abc")
    artefact = manifest().artefacts[0]
    with pytest.raises(CheckpointError, match="other SHA-256"):
        manifest().verified_file(tmp_path, artefact)
    # SHA-256 of "abc" from FIPS 180-2, appendix B.1.
    proved = replace(artefact, sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert manifest().verified_file(tmp_path, proved) == tmp_path / "model.fp32.onnx"


def test_parity_record_names_what_it_lacks() -> None:
    values = json.loads(json.dumps(fields_to_json(compare(LOGITS, LOGITS, precision="fp32"))))
    assert from_json(Parity, values) == compare(LOGITS, LOGITS, precision="fp32")
    del values["reason"]
    with pytest.raises(CheckpointError, match="Parity lacks 'reason'"):
        from_json(Parity, values)
