"""`--classes`: in which order the outputs of a network stand for the classes, where the network does not name them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from autoformer.data.classes import ORDERS, are_the_same, numbers_of, order_asked, shown_order
from autoformer.errors import DataError
from autoformer.files import TIMM

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autoformer.data.parts import DataParts, EveryImage
    from autoformer.training.config import TeacherConfig

WORDS = {"text": "as text", "natural": "natural (timm's)"}


def order_of(
    parts: DataParts | EveryImage, known: Sequence[str] | None, option: str | None, words: str
) -> tuple[tuple[str, ...], str | None]:
    """The classes of a network named by `words`, in the order of its outputs, and a line for people where that is a guess.

    `known` are the names that it carries, `option` is `--classes`. Raises `DataError` for an option beside known names, and for
    a class map that lacks a class of the images.
    """
    if known is not None:
        if option is not None:
            raise DataError(f"--classes has no effect on {words}, which names its classes; leave it out")
        return tuple(known), None
    if option is None:
        return parts.classes, _line_on_guess(parts, words)
    return order_asked(option, parts.classes, parts.source), None


def _line_on_guess(
    parts: DataParts | EveryImage,
    words: str,
    advice: str = "--classes natural, or --classes FILE with a class map, takes another",
) -> str | None:
    if (other := parts.natural_order) is None:
        return None
    return (
        f"{words} does not name its classes, and orders differ: {WORDS['text']} {shown_order(parts.classes, other)} (taken "
        f"here), {WORDS['natural']} {shown_order(other, parts.classes)}; {advice}"
    )


def teacher_line(teacher: TeacherConfig | None, parts: DataParts) -> Iterator[str]:
    """What is to be said of a teacher whose classes may be in another order than that of its setting."""
    if teacher is not None and teacher.network.startswith(TIMM) and "classes" not in teacher.model_fields_set:
        line = _line_on_guess(parts, f"teacher {teacher.network}", "set teacher.classes to natural, or to a class map")
        yield from () if line is None else (line,)


def better_order(
    found: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str], own: Sequence[str], advice: str
) -> str | None:
    """A line where another order of the classes makes clearly more answers right, with `advice`; None where none does.

    `found` and `labels` number `classes`; `own` is the order in which the outputs were taken. Clearly: the 95 % intervals of the
    two shares are apart.
    """
    from autoformer.metric import score

    if not len(labels) or not are_the_same(classes, own):
        return None
    taken = score(found, labels)
    places = numbers_of(classes, own)
    for name, sort in ORDERS.items():
        numbers = numbers_of(sort(classes), classes)  # of each output in that order
        other = score(_read_again(numbers, places, found), labels)
        if other.low > taken.high:
            order = sort(classes)
            return (
                f"with classes {WORDS[name]}, {shown_order(order, own)}, {other.rounded} of the {len(labels)} images "
                f"are right, as taken here, {shown_order(own, order)}, {taken.rounded}: the names are most likely "
                f"mixed up; {advice} --classes {name}"
            )
    return None


def _read_again(numbers: Sequence[int], places: Sequence[int], found: NDArray[np.int64]) -> NDArray[np.int64]:
    """The classes that the same outputs stand for in another order."""
    import numpy as np

    return np.asarray(numbers, np.int64)[np.asarray(places, np.int64)[found]]
