"""The order of classes, which numbers the logits of a network, and class maps, which write it down.

Class folders are taken in the order of their names as text (1, 10, 2), as torchvision takes them. timm reads the numbers in names
and takes no notice of case (1, 2, 10). What we save carries its class names, so its order is known wherever it goes; weights that
others trained often carry none, and then an order, or a class map, has to be given.

A class map is timm's: a UTF-8 file with a name per line, the first that of class 0.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoformer.errors import DataError

CLASS_MAP = "class_map.txt"
MOST_BYTES = 1 << 26  # of a class map
SHOWN = 3  # names of an order
SOME = 3  # names of many classes


def same_name(name: str) -> str:
    """What two spellings of one name share: Unicode has two forms of é, and file systems change one into the other."""
    return unicodedata.normalize("NFC", name)


def are_the_same(one: Iterable[str], other: Iterable[str]) -> bool:
    """Whether both hold the same names, in whatever order and Unicode form."""
    return sorted(map(same_name, one)) == sorted(map(same_name, other))


def some_of(names: Sequence[str]) -> str:
    """The first few names, and how many there are beside them."""
    more = len(names) - SOME
    return ", ".join(map(repr, names[:SOME])) + (f" and {more} more" if more > 0 else "")


def by_text(names: Iterable[str]) -> tuple[str, ...]:
    """The names by their code points: 1, 10, 2."""
    return tuple(sorted(names))


def by_number(names: Iterable[str]) -> tuple[str, ...]:
    """The names as timm sorts them, numbers by value and letters without case: 1, 2, 10. Equal ones by their code points."""
    return tuple(sorted(names, key=lambda name: (_natural_key(name), name)))


def _natural_key(name: str) -> list[Any]:
    pieces: list[Any] = re.split(r"(\d+)", name.lower())  # text and digits in turns
    for index in range(1, len(pieces), 2):
        digits = "".join(str(unicodedata.decimal(digit)) for digit in pieces[index]).lstrip("0")
        pieces[index] = (len(digits), digits)  # compares as the number does, however long it is
    return pieces


ORDERS = {"text": by_text, "natural": by_number}


def order_asked(option: str, classes: Sequence[str], source: str) -> tuple[str, ...]:
    """The order that `option` says for the classes of a source: text, natural, or the path of a class map.

    Raises `DataError` for a class map that lacks one of the classes.
    """
    if option in ORDERS:
        return ORDERS[option](classes)
    names = read_class_map(Path(option).expanduser())
    held, wanted = set(map(same_name, names)), set(map(same_name, classes))
    if strange := [name for name in classes if same_name(name) not in held]:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        unused = [name for name in names if same_name(name) not in wanted]
        beside = f"; it names {unused[0]!r}, which {source} does not hold" if unused else ""
        raise DataError(f"{source} holds class {strange[0]!r}{more}, which the class map {option} does not name{beside}")
    return names


def shown_order(names: Sequence[str], beside: Sequence[str]) -> str:
    """The beginning of an order from shortly before it leaves another one: "1, 10, 2"."""
    first = next((index for index, (name, other) in enumerate(zip(names, beside, strict=False)) if name != other), 0)
    start = max(0, min(first - 1, len(names) - SHOWN))
    return ", ".join((["..."] if start else []) + list(names[start : start + SHOWN]))


def numbers_of(names: Sequence[str], among: Sequence[str]) -> list[int]:
    """The place of each of `names` in `among`, in whatever Unicode form. Raises `KeyError` for one that is not there."""
    places = {same_name(name): place for place, name in enumerate(among)}
    return [places[same_name(name)] for name in names]


def read_class_map(path: Path) -> tuple[str, ...]:
    """The names of a class map, in order. Raises `DataError` for a file that is none."""
    expected = "expected a class map: a text file with a class name per line, in the order of the network's outputs"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}; {expected}")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as text ({getattr(error, 'strerror', None) or 'not UTF-8'}); {expected}"
        ) from error
    if len(content) > MOST_BYTES or "\0" in text:
        raise DataError(f"{path} is not a text file of names; {expected}")
    names = [line.strip() for line in re.split(r"\r\n|\n|\r", text)]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        where = f"line {names.index('') + 1} is empty" if names else "it is empty"
        raise DataError(f"{path}: {where}; {expected}")
    if twice := [name for name, count in Counter(map(same_name, names)).items() if count > 1]:
        raise DataError(f"{path} names class {twice[0]!r} more than once; {expected}")
    return tuple(names)


def write_class_map(names: Iterable[str], folder: Path) -> None:
    """Writes `class_map.txt` into `folder`, so that timm's reader, given the file, numbers the classes alike.

    Names that such a file cannot hold (with line breaks, or blanks at an end) would stand for others: then there is none.
    """
    held = list(names)
    lines = "".join(f"{name}\n" for name in held)
    as_read = [line.strip() for line in re.split(r"\r\n|\n|\r", lines)[:-1]]
    try:
        content = lines.encode()
    except UnicodeEncodeError:
        return
    if as_read == held and all(held):
        (folder / CLASS_MAP).write_bytes(content)


def recorded_names(record: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The classes of a record of data, in order; None where it does not say."""
    names = record.get("classes")
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
