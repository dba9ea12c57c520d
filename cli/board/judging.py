"""`Judge`: what a file or an engine answers here, against what was answered where the bundle was made.

An ONNX file is compared with its own logits there, as closely as other hardware allows (`rerun_tolerance`); an engine, which is
a new network, with those of the file it was built from, by the rule that the file was accepted with. Bundles of earlier versions
hold the logits of the fp32 file alone, which stand in for the others. Accuracy is a question of its own: it is lower where the
images lost outnumber the images won by more than chance would (a sign test, one-sided, 5 %).

Standard library only; works on Python 3.10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any

from autoformer.cli.board.bundle import Bundle
from autoformer.export.engines.builder import PRECISIONS
from autoformer.export.expected import DIFFERS, MATCHES
from autoformer.export.manifest import Artefact
from autoformer.export.parity import TOLERANCES, Parity, Tolerance, compare, rerun_tolerance, run_in_batches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autoformer.export.parity import Model

LOWER, AS_THERE = "lower", "as where it was made"
CHANCE = 0.05
OWN = "what the file gave where the bundle was made"
EARLIER_BUNDLE = "what the fp32 file gave where the bundle was made; the bundle holds no logits of this file"


@dataclass(frozen=True)
class Finding:
    """One comparison, and how many of the check images are named right here and there."""

    parity: Parity
    right: int
    right_there: int | None  # None: the bundle does not say
    accuracy: str | None  # `LOWER`, `AS_THERE`; None: the bundle does not say
    reference: str  # what it was compared with

    @property
    def good(self) -> bool:
        """Whether answers and accuracy are as they should be."""
        return self.parity.passed and self.accuracy != LOWER

    def to_dict(self) -> dict[str, Any]:
        """As the answer of `verify` holds it."""
        found = {
            "status": MATCHES if self.parity.passed else DIFFERS, "reason": self.parity.reason, "right": self.right,
            "images": self.parity.images, "right there": self.right_there, "accuracy": self.accuracy,
            "compared with": self.reference,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}


class Judge:
    """Of one bundle. Raises `CheckpointError` when its check images or logits cannot be read."""

    def __init__(self, bundle: Bundle) -> None:
        self.labels = bundle.expected.labels
        self.images = bundle.check_images()
        self.exact = bundle.expected_logits()
        self.own = {"onnx fp32": self.exact, **{name: bundle.expected_logits(name) for name in bundle.expected.logits}}
        self.accepted = {
            artefact.precision: artefact.parity.tolerance
            for artefact in bundle.manifest.artefacts
            if artefact.format == "onnx" and artefact.parity is not None
        }

    def file(self, artefact: Artefact, model: Model, batches: Sequence[int]) -> Finding:
        """An artefact of the bundle, run in batches of these sizes. Raises `ExportError` for logits of other classes."""
        if artefact.is_engine:
            parity, given = self._of_engine(artefact.precision, model, batches)
        else:
            given, sizes = run_in_batches(model, self.images, batches)
            parity = self._of_file(artefact.precision, given, sizes)
        own = self.own.get(f"onnx {PRECISIONS[artefact.precision]}")
        right = given.argmax(1) == self.labels
        if own is None:
            return Finding(parity, int(right.sum()), None, None, EARLIER_BUNDLE)
        there = own.argmax(1) == self.labels
        is_lower = by_chance(int((there & ~right).sum()), int((right & ~there).sum())) < CHANCE
        return Finding(parity, int(right.sum()), int(there.sum()), LOWER if is_lower else AS_THERE, OWN)

    def engine(self, precision: str, model: Model, batches: Sequence[int]) -> tuple[Parity, int]:
        """An engine of this precision before it counts, and how many check images it gets right."""
        parity, given = self._of_engine(precision, model, batches)
        return parity, int((given.argmax(1) == self.labels).sum())

    def _of_file(self, precision: str, given: NDArray[np.float32], sizes: Sequence[int]) -> Parity:
        own, accepted = self.own.get(f"onnx {precision}"), self._accepted(precision)
        if own is None:
            return compare(self.exact, given, precision=precision, batches=sizes, tolerance=accepted)
        tolerance = rerun_tolerance(own, self.exact, precision=precision, accepted=accepted)
        undecided = 2 * (tolerance.max_abs or 0.0)
        return compare(own, given, precision=precision, batches=sizes, tolerance=tolerance, undecided=undecided)

    def _of_engine(self, precision: str, model: Model, batches: Sequence[int]) -> tuple[Parity, NDArray[np.float32]]:
        given, sizes = run_in_batches(model, self.images, batches)
        own, tolerance = self.own.get(f"onnx {PRECISIONS[precision]}"), self._accepted(precision)
        if own is None:
            return compare(self.exact, given, precision=precision, batches=sizes, tolerance=tolerance), given
        least = TOLERANCES["fp32" if precision == "fp32" else "fp16"].max_abs or 0.0
        found = compare(own, given, precision=precision, batches=sizes, tolerance=tolerance, undecided=2 * least)
        return found, given

    def _accepted(self, precision: str) -> Tolerance:
        """What files of this precision are accepted with; of int8 the user may have said so at the export."""
        return self.accepted.get(precision, TOLERANCES[precision]) if precision == "int8" else TOLERANCES[precision]


def by_chance(lost: int, won: int) -> float:
    """How likely at least `lost` of the images that changed sides are lost, where either side is as likely."""
    changed = lost + won
    return sum(comb(changed, count) for count in range(lost, changed + 1)) / 2.0**changed
