"""How indices become parts: stratified by class, and, where images belong together, by whole groups.

Frames of one video or crops of one photograph resemble each other more than two images of a class do. Cut apart, they let a
network recognise the scene where it should recognise the class, and the score of the held-out part is too good. A group
therefore stays in one part.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from autoformer.errors import DataError


def stratified(labels: Sequence[int], fractions: Mapping[str, float], seed: int) -> dict[str, tuple[int, ...]]:
    """Indices by part: of each class the given fractions, at least one each, the rest under "rest"; sorted.

    Raises `DataError` for a class with fewer images than parts.
    """
    parts: dict[str, list[int]] = {name: [] for name in (*fractions, "rest")}
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(int(label), []).append(index)
    for label, indices in sorted(members.items()):
        if len(indices) <= len(fractions):
            raise DataError(f"class number {label} has {len(indices)} images; {len(fractions) + 1} parts need as many each")
        random.Random(f"{seed}/{label}").shuffle(indices)
        start = 0
        for name, fraction in fractions.items():
            count = max(1, min(round(fraction * len(indices)), len(indices) - len(fractions)))
            parts[name] += indices[start : start + count]
            start += count
        parts["rest"] += indices[start:]
    return {name: tuple(sorted(indices)) for name, indices in parts.items()}


def group_keys(names: Sequence[str | None], pattern: str) -> list[str]:
    """The group of each image: the first group of `pattern` in its path, or the whole match.

    Raises `DataError` when the images have no paths, or one of them does not match.
    """
    search = re.compile(pattern).search
    keys: list[str] = []
    strange: list[str] = []
    for name in names:
        if name is None:
            raise DataError(f"group_by {pattern!r} is searched in the paths of images, and the images of this data set have none")
        if found := search(name):
            key = found.group(1) if found.re.groups else found.group(0)
            keys.append(key or "")  # a group that took no part in the match is one group, the unnamed
        else:
            strange.append(name)
    if names and len(strange) == len(names):
        raise DataError(f"group_by {pattern!r} matches no path, e.g. not {strange[0]!r}; paths stand below the folder of images")
    if strange:
        raise DataError(
            f"group_by {pattern!r} does not match {len(strange)} of {len(names)} paths, e.g. {strange[0]!r}; "
            "every image needs a group, if only one of its own"
        )
    return keys


def grouped(
    labels: Sequence[int], groups: Sequence[str], fractions: Mapping[str, float], seed: int, classes: Sequence[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """Indices by part, whole groups each, of every class about the given fractions; the rest under "rest"; sorted.

    Groups are dealt from the largest to the smallest, those of equal size in the order of `seed`, each to the part where it
    shrinks the sum over the classes of (images missing)² / (images wanted) most. A class that has only as many groups left as
    parts lack it goes to one of these. Raises `DataError` for a class with fewer groups than parts, or when a class would be
    missing in the rest, which is trained on.
    """
    shares = {**fractions, "rest": 1 - sum(fractions.values())}
    members: dict[str, list[int]] = {}
    for index, key in enumerate(groups):
        members.setdefault(key, []).append(index)
    counts = {key: Counter(int(labels[index]) for index in indices) for key, indices in members.items()}
    sizes = Counter(int(label) for label in labels)
    waiting = Counter(label for count in counts.values() for label in count)  # groups not yet dealt, by class
    for label, number in sorted(waiting.items()):
        if number < len(shares):
            name = repr(classes[label]) if classes else f"number {label}"
            raise DataError(f"class {name} lies in {number} groups; {len(shares)} parts need as many groups of each class")
    order = sorted(members)
    random.Random(f"{seed}/groups").shuffle(order)
    order.sort(key=lambda key: -len(members[key]))
    wanted = np.array(list(shares.values()))
    have = {label: np.zeros(len(shares)) for label in sizes}
    dealt: dict[str, list[int]] = {name: [] for name in shares}
    for key in order:
        gain = np.zeros(len(shares))
        needed = np.zeros(len(shares), dtype=np.int64)
        for label, number in counts[key].items():
            target = wanted * sizes[label]
            gain += number / sizes[label] * (1 - (have[label] + number / 2) / target)
            lacking = have[label] == 0
            if waiting[label] <= lacking.sum():
                needed += lacking
            waiting[label] -= 1
        best = max(range(len(shares)), key=lambda part: (needed[part], gain[part]))
        for label, number in counts[key].items():
            have[label][best] += number
        dealt[list(shares)[best]] += members[key]
    for label, dealt_out in have.items():
        if dealt_out[-1] == 0:
            name = repr(classes[label]) if classes else f"number {label}"
            raise DataError(f"class {name} shares its groups with others, and none is left to train on; try another split_seed")
    return {name: tuple(sorted(indices)) for name, indices in dealt.items()}
