"""Which folders at the top of a source are parts, and which only look like parts.

Parts are known by their names, in any case. Folders of other names are classes, so a name that people give to parts
(`training_set`, `seg_train`, `test1`) would silently become a class. Such names are refused where the folders also look like
parts; a class whose name merely holds such a word (`freight_train`, `test_tube`) stays one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from autoformer.data.images import printable
from autoformer.errors import DataError

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing", "eval"),
}
KNOWN = frozenset(name for names in SPLIT_FOLDERS.values() for name in names)
HOW_TO_NAME = "parts are called train (training), val (validation, valid, dev) and test (testing, eval)"
ROLES = {  # words that tell of a part, inside a longer name
    **{word: part for part, words in SPLIT_FOLDERS.items() for word in words},
    "trainval": "train", "evaluation": "test", "holdout": "test",
}  # fmt: skip
BESIDE_WORDS = "extra pred predict prediction predictions unlabeled unlabelled submission"
BESIDE = frozenset(BESIDE_WORDS.split())  # words of what lies beside parts
PLAIN_WORDS = "set sets data dataset image images img imgs folder folders dir split seg photos pictures new all a b"
PLAIN = BESIDE | set(PLAIN_WORDS.split())  # what stands in a name beside the word and tells nothing
ENDS = ("sets", "set", "data", "images", "imgs", "img", "split", "dir")  # written together with the word: trainset, testdata
SHOWN = 3


@dataclass(frozen=True)
class Shape:
    """How a folder at the top looks."""

    flat: bool  # images lie directly in it
    folders: tuple[str, ...]  # that lie in it

    def __str__(self) -> str:
        more = ", ..." if len(self.folders) > SHOWN else ""
        return f"folders {', '.join(map(printable, self.folders[:SHOWN]))}{more}" if self.folders else "images"


@dataclass(frozen=True)
class Parts:
    """The folders of a source that are its parts, by part, and what lies at the top beside them."""

    folders: dict[str, str]  # "train": "Training"
    beside: tuple[str, ...] = ()


def parts_among(
    where: str, folders: Sequence[str], shape_of: Callable[[str], Shape], *, train_needed: bool = True
) -> Parts | None:
    """The parts among the folders at the top of what `where` names; None: the folders are classes.

    Raises `DataError` for folders that look like parts and are not called so, and, where it is needed, for parts without train.
    """
    found = {part: name for part, names in SPLIT_FOLDERS.items() if (name := _of_part(where, folders, names))}
    if "train" in found and (len(found) == len(folders) or len(found) > 1):
        return Parts(found, tuple(folder for folder in folders if folder not in found.values()))
    if "train" not in found and found and len(found) in (2, len(folders)):
        if not train_needed:
            return Parts(found, tuple(folder for folder in folders if folder not in found.values()))
        held = " and ".join(found.values())
        raise DataError(f"{where} holds {held} but no train folder; expected a folder 'train' beside them")
    _refuse_lookalikes(where, folders, cache(shape_of))
    return None  # beside folders of other names, "train" is a class of vehicles


def _of_part(where: str, folders: Sequence[str], names: Sequence[str]) -> str | None:
    """The folder of a part, in any case. Raises `DataError` where there are two."""
    same = [folder for name in names for folder in folders if folder.lower() == name]
    if len(same) > 1:
        raise DataError(f"{where} holds both {same[0]} and {same[1]}; expected one folder '{names[0]}'")
    return same[0] if same else None


def _role(folder: str) -> tuple[str | None, frozenset[str]]:
    """The part that a name tells of ("beside": of none, but of what lies beside parts), and the other words of the name."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", folder)]
    words = [next((w.removesuffix(end) for end in ENDS if w.removesuffix(end) in ROLES), w) for w in words]
    for word in words:
        if word in ROLES:
            return ROLES[word], frozenset(words) - {word}
    return ("beside" if BESIDE & set(words) else None), frozenset(words)


def _refuse_lookalikes(where: str, folders: Sequence[str], shape_of: Callable[[str], Shape]) -> None:
    """Raises `DataError` for folders that are parts by their names and by what lies in them."""
    told = {folder: _role(folder) for folder in folders}
    named = [folder for folder in folders if told[folder][0] not in (None, "beside")]
    roles = {told[folder][0] for folder in named}
    exact = any(folder.lower() in KNOWN for folder in folders)
    if "train" in roles and (len(roles) > 1 or exact or len(named) == len(folders)):
        shapes = {folder: shape_of(folder) for folder in named}
        deep = [folder for folder, shape in shapes.items() if told[folder][0] == "train" and shape.folders and not shape.flat]
        all_deep = len(deep) == sum(told[folder][0] == "train" for folder in named)
        shared = all_deep and bool(set.intersection(*(set(shape.folders) for shape in shapes.values())))
        rests = {told[folder][1] for folder in named}
        plain = len(rests) == 1 or all(rest <= PLAIN for rest in rests)
        alone = all(role is not None for role, _ in told.values())  # no other names at the top
        several = len(roles) > 1 and ((alone and (plain or shared)) or (plain and all_deep))
        more = (
            alone and len(folders) > 1 and ((shared and plain) or any(folder.lower() in KNOWN for folder in deep))
        )  # or train, and another
        if several or more:
            seen = " and ".join(f"{printable(folder)} ({shape_of(folder)})" for folder in folders if told[folder][0])
            raise DataError(
                f"{where} holds {seen}, which look like parts of a data set and not like classes; {HOW_TO_NAME}: rename them, or "
                "give one of them alone"
            )
    _refuse_parts_in_classes(where, folders, shape_of)


def alike(folders: Sequence[str], shape_of: Callable[[str], Shape]) -> tuple[str, ...]:
    """The folders at the top where all hold folders of the same two or more names and no image: they may be parts or folds."""
    shapes = [shape_of(folder) for folder in folders]
    same = len(folders) > 1 and len({shape.folders for shape in shapes}) == 1 and len(shapes[0].folders) > 1
    return tuple(folders) if same and not any(shape.flat for shape in shapes) else ()


def refuse_named_like_parts(archives: Sequence[Path]) -> None:
    """Raises `DataError` for archives beside each other that are parts by their names, as these are not all known."""
    told = [_role(path.stem) for path in archives]
    roles, rests = {role for role, _ in told} - {None, "beside"}, {rest for role, rest in told if role not in (None, "beside")}
    if "train" in roles and len(roles) > 1 and (len(rests) == 1 or all(rest <= PLAIN for rest in rests)):
        names = ", ".join(printable(path.name) for path in archives[:SHOWN])
        raise DataError(
            f"{printable(archives[0].parent)} holds {names}, which look like parts of a data set and would be mixed; "
            f"{HOW_TO_NAME}: rename them to train.tar, val.tar, test.tar (or train-0000.tar), and move others away"
        )


def _refuse_parts_in_classes(where: str, folders: Sequence[str], shape_of: Callable[[str], Shape]) -> None:
    """Raises `DataError` where every folder holds parts (CLASS/train, CLASS/test), or where there is one, which holds them."""
    if not folders:
        return
    first, name = shape_of(folders[0]), printable(folders[0])
    if len(folders) == 1:
        if not first.flat and len(first.folders) > 1:
            raise DataError(f"{where} holds one folder, {name}, with {first} in it; give what lies in it, {where}/{name}")
        return
    inside = [folder for folder in first.folders if folder.lower() in KNOWN]
    if len({ROLES[folder.lower()] for folder in inside}) > 1 and all(
        not (shape := shape_of(folder)).flat and any(inner.lower() in KNOWN for inner in shape.folders) for folder in folders
    ):
        raise DataError(
            f"{where} holds parts inside its classes ({name}/{inside[0]}, {name}/{inside[1]}), which would be mixed; "
            f"{HOW_TO_NAME}, and hold the classes: {inside[0]}/{name}"
        )
