"""Does a file lose a class? Right answers of a candidate against its source, paired image by image, class by class.

An overall share hides a class that is rare: all images of one of a hundred classes are one per cent. So each class is asked
alone, by the images on which one of the two is right and the other wrong (McNemar's pairs). If the candidate were as good as
its source, such an image would go either way with equal chance; how unlikely the losses are then is an exact binomial tail.
A class is lost when both hold: the tail is below 5 % shared among the classes (Bonferroni, so that a thousand classes raise no
more false alarms than one), and the loss is larger than is allowed. A small class may lose without significance; the figures
then say so. Runs on boards: standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autoformer.errors import ExportError

SIGNIFICANCE = 0.05  # over all classes together


@dataclass(frozen=True)
class ClassLoss:
    """One class: on how many of its images only the source is right, and on how many only the candidate."""

    name: str
    images: int
    lost: int  # source right, candidate wrong
    gained: int  # source wrong, candidate right

    @property
    def loss(self) -> float:
        """By how much the share of right answers falls, 0..1; negative where it rises."""
        return (self.lost - self.gained) / self.images

    @property
    def p_value(self) -> float:
        """How likely as many losses or more are if each of the disputed images went either way with equal chance."""
        disputed = self.lost + self.gained
        ways = outcomes = 1  # to choose k of them, and at most k; each from the one before, since thousands may be disputed
        for k in range(self.gained):
            ways = ways * (disputed - k) // (k + 1)
            outcomes += ways
        return outcomes / (1 << disputed)


@dataclass(frozen=True)
class ClassLosses:
    """All classes that have images, in the order of `classes`, and the rule they are judged by."""

    truth: str  # "labels", or "fp32" where no labels were given and the source's own answers stand for them
    max_loss: float  # share of a class's images
    classes: tuple[ClassLoss, ...]

    @property
    def level(self) -> float:
        """What the tail of a single class must lie below."""
        return SIGNIFICANCE / max(1, len(self.classes))

    @property
    def broken(self) -> tuple[ClassLoss, ...]:
        """The classes that are lost, the worst first."""
        found = [entry for entry in self.classes if entry.loss > self.max_loss and entry.p_value < self.level]
        return tuple(sorted(found, key=lambda entry: -entry.loss))

    @property
    def reason(self) -> str:
        """One line: the lost classes, or the largest loss of any."""
        if self.broken:
            worst, others = self.broken[0], len(self.broken) - 1
            more = f" and {others} other{'s' if others > 1 else ''}" if others else ""
            return (
                f"class {worst.name!r}{more}: {worst.lost} of {worst.images} images lost, {worst.gained} gained "
                f"(p = {worst.p_value:.2g}, below {self.level:.2g}), allowed {100 * self.max_loss:g} points"
            )
        worst = max(self.classes, key=lambda entry: entry.loss, default=None)  # type: ignore[assignment]
        if worst is None or worst.loss <= 0:
            return "no class loses"
        return f"largest loss of a class {100 * worst.loss:.1f} points ({worst.name!r}, p = {worst.p_value:.2g})"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; of the classes those on which the two differ."""
        return {
            "truth": self.truth,
            "max_loss": self.max_loss,
            "level": self.level,
            "compared": len(self.classes),
            "broken": [entry.name for entry in self.broken],
            "classes": [
                asdict(entry) | {"loss": entry.loss, "p_value": entry.p_value}
                for entry in self.classes
                if entry.lost or entry.gained
            ],
        }


def class_losses(
    source: Sequence[int],
    candidate: Sequence[int],
    labels: Sequence[int] | None,
    classes: Sequence[str],
    *,
    max_loss: float,
) -> ClassLosses:
    """Compares the classes that `source` and `candidate` name for the same images; `labels` None: the source is right.

    Raises `ExportError` when the counts differ.
    """
    truth = source if labels is None else labels
    if not len(source) == len(candidate) == len(truth):
        raise ExportError(f"{len(candidate)} answers against {len(source)}, with {len(truth)} labels; expected as many of each")
    counts = {index: [0, 0, 0] for index in range(len(classes))}
    for true, before, after in zip(map(int, truth), map(int, source), map(int, candidate), strict=True):
        found = counts[true]
        found[0] += 1
        found[1] += before == true != after
        found[2] += before != true == after
    return ClassLosses(
        truth="fp32" if labels is None else "labels",
        max_loss=max_loss,
        classes=tuple(ClassLoss(classes[index], *found) for index, found in counts.items() if found[0]),
    )
