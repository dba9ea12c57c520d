"""Two models compared as an export compares them: the reference in its own batches, the candidate in several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from autoformer.export.parity import BATCHES, REFERENCE_BATCH, Parity, compare, run_in_batches

if TYPE_CHECKING:
    from autoformer.export.parity import Model


def compare_models(reference: Model, candidate: Model, images: NDArray[Any], precision: str = "fp32") -> Parity:
    expected, _ = run_in_batches(reference, images, (REFERENCE_BATCH,))
    given, sizes = run_in_batches(candidate, images, BATCHES)
    return compare(expected, given, precision=precision, batches=sizes)
