"""Is this file the network it came from? Two sets of logits, compared with tolerances that fit the precision.

fp32 must agree to rounding and name the same class, except where the reference itself is undecided within that rounding.
fp16 and int8 are other networks by intent: judged by how often they name another class on real images (paired, image by
image), and by the angle between the logits. Runs on boards: numpy is imported when a comparison runs.

A file that was accepted is afterwards, on other devices, compared with its own logits (`rerun_tolerance`).

Letters: n images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoformer.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Model = Callable[[NDArray[Any]], NDArray[np.float32]]  # images [n, C, H, W] of the type it takes to logits

Batches = tuple[int, int, int]  # of a model that takes several sizes: smallest, the one it is tuned for, largest
BATCHES = (1, 2, 5)  # sizes that candidates are run with in turn
REFERENCE_BATCH = 64  # images per call of the reference: other batches than the candidate's, so that batches may not matter


@dataclass(frozen=True)
class Tolerance:
    """What a comparison may show at most. None: shown, but not limited."""

    max_abs: float | None  # largest difference of a logit, relative to max(1, largest logit of the reference)
    min_cosine: float  # of the logits of an image, the worst of all images
    max_disagreement: float  # share of images that are given another class


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(max_abs=1e-4, min_cosine=0.9999, max_disagreement=0.0),
    "tf32": Tolerance(max_abs=2e-2, min_cosine=0.999, max_disagreement=0.005),  # products are rounded to as many bits as fp16's
    "fp16": Tolerance(max_abs=2e-2, min_cosine=0.999, max_disagreement=0.005),
    "int8": Tolerance(max_abs=None, min_cosine=0.8, max_disagreement=0.01),
}


# What other hardware, or another version of a runtime, changes of the answers of one int8 file, in parts of what quantisation
# changed of the network's: a value next to the border of two steps falls on the other side where sums are added up in another
# order. Measured between ONNX Runtime with all fusions and with none: 0.4 to 0.8 parts; a damaged weight matrix: 2.5 and more.
RERUN_NOISE = 1.5


def rerun_tolerance(
    own: NDArray[np.float32], exact: NDArray[np.float32], *, precision: str, accepted: Tolerance | None = None
) -> Tolerance:
    """What a file that gave the logits `own` may give elsewhere, where the fp32 file gave `exact` [n, C] of the same images.

    fp32 must agree to rounding, half precision to its rounding. int8 may be off by `RERUN_NOISE` times what quantisation did, at
    least by what half precision may. `accepted` is what it was accepted with, whose limit of other classes is kept.
    """
    import numpy as np

    found = TOLERANCES[precision]
    if precision != "int8":
        return found
    kept, least = accepted or found, TOLERANCES["fp16"].max_abs or 0.0
    noise = float(np.abs(own - exact).max()) / max(1.0, float(np.abs(own).max()))
    return Tolerance(max(least, RERUN_NOISE * noise), kept.min_cosine, kept.max_disagreement)


@dataclass(frozen=True)
class Parity:
    """The outcome of one comparison."""

    images: int
    batches: tuple[int, ...]  # sizes of the batches that the candidate was run with
    max_abs: float  # logits
    mean_abs: float  # logits
    cosine: float  # smallest over images; 0 when an image's logits are all zero on one side only
    top1_agreement: float  # share of images given the same class, undecided ones counted as agreeing
    non_finite: int  # candidate logits that are infinite or not a number
    precision: str
    tolerance: Tolerance
    passed: bool
    reason: str  # one line; what failed and by how much, or what was found

    @property
    def disagreement(self) -> float:
        """Share of images that the candidate gives another class than the reference."""
        return 1.0 - self.top1_agreement


def compare(
    reference: NDArray[np.float32],
    candidate: NDArray[np.float32],
    *,
    precision: str,
    batches: Sequence[int] = (),
    tolerance: Tolerance | None = None,
    undecided: float | None = None,
) -> Parity:
    """Compares logits [n, C] of the same images. `tolerance` replaces the one of `precision`.

    Classes whose logits are at most `undecided` (relative, as `max_abs` is) below the best of the reference are as good as the
    best; None: within rounding of fp32, and none in other precisions, whose rounding is what is judged.

    Raises `ExportError` when the shapes differ, nothing is given, or the precision is unknown.
    """
    import numpy as np

    if tolerance is None:
        if precision not in TOLERANCES:
            raise ExportError(f"no tolerance is known for precision {precision!r}; known are {', '.join(TOLERANCES)}")
        tolerance = TOLERANCES[precision]
    if reference.shape != candidate.shape or reference.ndim != 2 or not reference.size:
        raise ExportError(f"logits {list(candidate.shape)} against {list(reference.shape)}: expected equal shapes [n, classes]")
    if not np.isfinite(reference).all():
        raise ExportError("the source network gives logits that are infinite or not a number; nothing can be compared with it")
    exact, given = reference.astype(np.float64), candidate.astype(np.float64)
    finite = np.isfinite(given)
    non_finite = int(given.size - finite.sum())
    given = np.where(finite, given, 0.0)

    difference = np.abs(exact - given)
    scale = max(1.0, float(np.abs(exact).max()))
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(given, axis=1)
    both_zero = ~exact.any(axis=1) & ~given.any(axis=1)
    cosines = np.where(both_zero, 1.0, (exact * given).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
    # A class within rounding of the best one is as good as the best: rounding may turn both.
    if undecided is None:
        undecided = 2 * tolerance.max_abs if tolerance.max_abs is not None and precision == "fp32" else 0.0
    slack = undecided * scale
    chosen = exact[np.arange(len(exact)), given.argmax(axis=1)]
    agrees = (chosen >= exact.max(axis=1) - slack) & finite.all(axis=1)

    max_abs, cosine, agreement = float(difference.max()), float(cosines.min()), float(agrees.mean())
    failed = []
    if non_finite:
        failed.append(f"{non_finite} logits are infinite or not a number")
    if tolerance.max_abs is not None and max_abs > tolerance.max_abs * scale:
        failed.append(f"logits differ by {max_abs:.3g}, allowed {tolerance.max_abs * scale:.3g}")
    if (wrong := len(agrees) - int(agrees.sum())) > tolerance.max_disagreement * len(agrees):
        failed.append(
            f"{wrong} of {len(agrees)} images ({wrong / len(agrees):.2%}) get another class, "
            f"allowed {tolerance.max_disagreement:.2%}"
            + (", which is none of so few" if tolerance.max_disagreement * len(agrees) < 1 else "")
        )
    if cosine < tolerance.min_cosine:
        failed.append(f"smallest cosine of the logits is {cosine:.4f}, allowed {tolerance.min_cosine:g}")
    found = f"{len(agrees)} images: logits within {max_abs:.3g}, top-1 agreement {agreement:.2%}, cosine at least {cosine:.4f}"
    return Parity(
        images=len(agrees), batches=tuple(batches), max_abs=max_abs, mean_abs=float(difference.mean()), cosine=cosine,
        top1_agreement=agreement, non_finite=non_finite, precision=precision, tolerance=tolerance, passed=not failed,
        reason="; ".join(failed) or found,
    )  # fmt: skip


def run_in_batches(model: Model, images: NDArray[Any], batches: Sequence[int]) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """Logits [n, C] of all images, taken in batches of the given sizes in turn; and the sizes that occurred."""
    import numpy as np

    if not batches or min(batches) < 1:
        raise ExportError(f"batch sizes must be positive, got {list(batches)}")
    found, sizes, start, turn = [], set(), 0, 0
    while start < len(images):
        batch = images[start : start + batches[turn % len(batches)]]
        found.append(model(np.ascontiguousarray(batch)))
        sizes.add(len(batch))
        start, turn = start + len(batch), turn + 1
    if not found:
        raise ExportError("there are no images to compare on; give at least one")
    return np.concatenate(found), tuple(sorted(sizes))


def filled_up(model: Model, batch: int | None) -> Model:
    """`model`, which takes exactly `batch` images, for any number of them; as it is where it takes any (None)."""
    return model if batch is None else in_profiles(model, ((batch,) * 3,))


def in_profiles(model: Model, profiles: Sequence[Batches]) -> Model:
    """`model`, which takes the batches of these profiles, for any number of images.

    A batch between two profiles is filled up with copies of its last image, whose answers are dropped.
    """

    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        import numpy as np

        most, found = max(high for _, _, high in profiles), []
        for start in range(0, max(1, len(images)), most):
            batch = images[start : start + most]
            size = min(max(low, len(batch)) for low, _, high in profiles if high >= len(batch))
            whole = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
            found.append(model(np.ascontiguousarray(whole))[: len(batch)])
        return np.concatenate(found)

    return run
