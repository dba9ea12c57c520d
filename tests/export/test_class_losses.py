"""int8 that loses one class is rejected although few images change: verdicts worked out by hand from constructed answers."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor, nn

from autoformer.data.preprocessing import Preprocessing
from autoformer.errors import DataError, ExportError
from autoformer.export.class_losses import ClassLoss, class_losses
from autoformer.export.graphs.onnx_model import OnnxModel
from tests.support.exporting import write_export

CLASSES = ("ape", "bee")


def answers(*counts: tuple[int, int, int]) -> tuple[list[int], list[int], list[int]]:
    """Labels, the source's answers and the candidate's, for (label, source, candidate) triples each `times` over."""
    labels, source, candidate = zip(*counts, strict=True)
    return list(labels), list(source), list(candidate)


def repeated(times: int, label: int, source: int, candidate: int) -> list[tuple[int, int, int]]:
    return [(label, source, candidate)] * times


def test_pairs_are_counted_by_class_and_the_tail_is_that_of_the_binomial() -> None:
    labels, source, candidate = answers(
        *repeated(6, 1, 1, 0),  # only the source is right
        *repeated(1, 1, 0, 1),  # only the candidate
        *repeated(2, 1, 0, 0),  # both wrong
        *repeated(11, 1, 1, 1),
        *repeated(10, 0, 0, 0),
    )
    ape, bee = class_losses(source, candidate, labels, CLASSES, max_loss=0.05).classes
    assert (ape.images, ape.lost, ape.gained, ape.loss, ape.p_value) == (10, 0, 0, 0.0, 1.0)
    assert (bee.images, bee.lost, bee.gained, bee.loss) == (20, 6, 1, 0.25)
    assert bee.p_value == (7 + 1) / 128  # of 7 fair coins 6 or more fall the same way: 7 + 1 of 128 outcomes


def test_a_tail_is_exact_and_thousands_of_disputed_images_are_answered() -> None:
    for lost, gained in itertools.product(range(20), repeat=2):
        outcomes = sum(math.comb(lost + gained, k) for k in range(lost, lost + gained + 1))
        assert ClassLoss("ape", 40, lost, gained).p_value == outcomes / 2 ** (lost + gained)
    assert ClassLoss("ape", 50_000, 15_100, 14_900).p_value == pytest.approx(binom.sf(15_099, 30_000, 0.5))


@pytest.mark.parametrize(
    ("lost", "broken"),
    [
        (5, ()),  # 1/32 is above 5 % shared by two classes
        (6, ("bee",)),  # 1/64 is below 2.5 %
    ],
)
def test_a_loss_counts_once_chance_is_ruled_out_for_as_many_classes_as_there_are(lost: int, broken: tuple[str, ...]) -> None:
    labels, source, candidate = answers(*repeated(lost, 1, 1, 0), *repeated(30 - lost, 1, 1, 1), *repeated(300, 0, 0, 0))
    found = class_losses(source, candidate, labels, CLASSES, max_loss=0.05)
    assert tuple(entry.name for entry in found.broken) == broken
    assert found.to_dict()["broken"] == list(broken)
    if broken:
        assert found.reason == "class 'bee': 6 of 30 images lost, 0 gained (p = 0.016, below 0.025), allowed 5 points"
    else:
        assert found.reason == "largest loss of a class 16.7 points ('bee', p = 0.031)"


def test_a_loss_that_is_certain_but_small_is_allowed() -> None:
    labels, source, candidate = answers(*repeated(20, 1, 1, 0), *repeated(480, 1, 1, 1), *repeated(500, 0, 0, 0))
    assert class_losses(source, candidate, labels, CLASSES, max_loss=0.04).broken == ()  # 4 points, p = 2^-20
    assert class_losses(source, candidate, labels, CLASSES, max_loss=0.039).broken != ()


def test_gains_of_the_same_class_weigh_against_its_losses() -> None:
    labels, source, candidate = answers(*repeated(10, 1, 1, 0), *repeated(10, 1, 0, 1), *repeated(10, 1, 1, 1))
    (bee,) = class_losses(source, candidate, labels, CLASSES, max_loss=0.0).classes
    assert (bee.loss, class_losses(source, candidate, labels, CLASSES, max_loss=0.0).broken) == (0.0, ())
    assert bee.p_value > 0.5


def test_without_labels_the_answers_of_the_source_are_the_truth() -> None:
    _, source, candidate = answers(*repeated(8, 0, 1, 0), *repeated(12, 0, 1, 1))
    found = class_losses(source, candidate, None, CLASSES, max_loss=0.05)
    assert found.truth == "fp32"
    assert [(entry.name, entry.lost, entry.gained) for entry in found.broken] == [("bee", 8, 0)]


def test_answers_of_other_images_are_refused() -> None:
    with pytest.raises(ExportError, match="2 answers against 3"):
        class_losses([0, 1, 1], [0, 1], None, CLASSES, max_loss=0.05)


class Brightness(nn.Module):
    """Says "bee" for bright images, the more certainly the brighter."""

    num_classes = 2
    pretrained_cfg: ClassVar = {"input_size": (1, 8, 8)}

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.stack([-torch.ones(64), torch.ones(64)]))
            self.head.bias.copy_(torch.tensor([100.0, 100.0]))  # so that a shift of ten hardly turns the logits

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))  # type: ignore[no-any-return]


def pictures() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """2000 dark images of class 0; 40 of class 1, of which 30 are as little bright as the wrong file cannot see."""
    levels = np.concatenate([np.full(2000, -1.0), np.full(10, 1.0), np.full(30, 0.1)]).astype(np.float32)
    images = np.broadcast_to(levels[:, None, None, None], (2040, 1, 8, 8)).copy()
    return images, (levels > 0).astype(np.int64)


@pytest.mark.parametrize(("max_class_loss", "status"), [(0.05, "rejected"), (1.0, "exported")])
def test_an_int8_file_that_loses_a_rare_class_is_rejected_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_class_loss: float, status: str
) -> None:
    images, labels = pictures()
    run = OnnxModel.__call__

    def shifted(self: OnnxModel, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits that a quantised bias has moved towards "ape"."""
        logits = run(self, batch)
        return logits + np.asarray([10.0, -10.0], np.float32) if self.precision == "int8" else logits

    monkeypatch.setattr(OnnxModel, "__call__", shifted)
    manifest = write_export(
        Brightness(), tmp_path / "out", images=images, labels=labels, preprocessing=Preprocessing(8, 1, (0.0,), (1.0,)),
        classes=CLASSES, precisions=("fp32", "int8"), formats=("onnx",), calibration_images=64, max_disagreement=0.02,
        max_class_loss=max_class_loss,
    )  # fmt: skip
    _, int8 = manifest.artefacts
    assert int8.parity is not None
    assert int8.parity.disagreement < 0.02  # overall it would pass
    assert (int8.status, int8.file is None) == (status, status == "rejected")
    (bee,) = int8.made["class_losses"]["classes"]
    assert (bee["name"], bee["gained"]) == ("bee", 0)
    assert ("class 'bee'" in int8.reason) is (status == "rejected")
    assert "('bee'" in int8.reason or status == "rejected"


def test_labels_outside_the_classes_are_refused(tmp_path: Path) -> None:
    images, labels = pictures()
    with pytest.raises(DataError, match="expected 0 to 1"):
        write_export(
            Brightness(), tmp_path / "out", images=images, labels=labels + 1, preprocessing=Preprocessing(8, 1, (0.0,), (1.0,)),
            classes=CLASSES,
        )  # fmt: skip
