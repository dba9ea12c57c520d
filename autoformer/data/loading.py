"""Images become three parts, a record of them becomes the same three again; images that cannot be read are left out of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autoformer.data.classes import are_the_same, recorded_names
from autoformer.data.examining import held_by
from autoformer.data.images import FileImages, Images, applied, called, dataset_images, printable
from autoformer.data.named_sets import is_named
from autoformer.data.parts import PARTS, UNLABELLED, DataConfig, DataParts, EveryImage, Part, TestPart, Unlabelled
from autoformer.data.preprocessing import Preprocessing, convert
from autoformer.data.reading import for_each, imagenet_normalised, sampled_preprocessing
from autoformer.data.sources import Source, open_source, open_whole, unlabelled_images
from autoformer.data.splits import group_keys, grouped, stratified
from autoformer.errors import DataError
from autoformer.progress import Progress, silent
from autoformer.settings import first_problem


def split_dataset(
    dataset: Any,
    *,
    classes: Sequence[str] | None = None,
    test_dataset: Any = None,
    config: DataConfig | None = None,
    source: str = "data set",
) -> DataParts:
    """Parts of a data set object of (PIL image, label) pairs, such as a notebook's own.

    Without `test_dataset` the test part is taken out of `dataset` too. Raises `DataError` where images cannot be used.
    """
    config = config or DataConfig()
    images, names = dataset_images(dataset, classes, config.max_memory_mib)
    tests = None if test_dataset is None else dataset_images(test_dataset, names, config.max_memory_mib)[0]
    return _parts(Source(source, names, images, test=tests), config)


def load_parts(config: DataConfig) -> DataParts:
    """The parts of the data set that `config` names. Raises `DataError` where it cannot be used as it is."""
    return _parts(open_source(config.source, config.root, config.max_memory_mib), config)


def load_every_image(config: DataConfig) -> EveryImage:
    """All images of the data set that `config` names, however they lie: nothing is cut, and one class is enough."""
    whole = open_whole(config.source, config.root, config.max_memory_mib)
    parts = tuple(_whole(name, images) for name, images in whole.parts.items())
    named = "" if len(parts) == 1 else f" of {', '.join(part.name for part in parts)}"
    return EveryImage(whole.name, whole.classes, parts, f"all images{named}{whole.remarks.words()}")


def fitting_preprocessing(every: EveryImage, config: DataConfig) -> Preprocessing:
    """What fits these images, for networks that do not say how theirs are prepared. Raises `DataError` where none can be read."""
    first = every.parts[0]
    return sampled_preprocessing(
        first.images, first.indices, image_size=config.image_size, max_image_size=config.max_image_size,
        crop_pct=config.crop_pct, skip_unreadable=True,
    )[0]  # fmt: skip


def _parts(source: Source, config: DataConfig) -> DataParts:
    images, classes, name = source.train, source.classes, source.name
    used = Counter(int(label) for label in images.labels)
    if len(used) < 2:
        raise DataError(f"{name} holds images of {len(used)} class; a classifier needs at least two folders of images")
    fractions = {}
    if source.val is None:
        fractions["search"] = config.search_fraction
    if source.test is None:
        fractions["test"] = config.test_fraction
    if sum(fractions.values()) >= 1:
        raise DataError(f"search_fraction and test_fraction are {sum(fractions.values()):g} together; leave some to train")
    cut = _cut(source, fractions, config)
    train = Part("train", images, cut["rest"])
    search = Part("search", images, cut["search"]) if source.val is None else _whole("search", source.val)
    tests = Part("test", images, cut["test"]) if source.test is None else _whole("test", source.test)
    for part in (search, tests):
        if len(set(part.labels.tolist())) < 2:
            only = classes[int(part.labels[0])] if len(part) else "none"
            raise DataError(f"{name}: the {part.name} part holds one class only ({only}); a score needs images of two or more")
    words = {0: "train, val and test as they are", 1: "test as it is, search taken out of train"}
    layout = words.get(len(fractions), "search and test taken out, stratified by class")
    if config.group_by is not None:
        layout += _words_on_groups((train, search, tests), config.group_by, has_effect=bool(fractions))
    if (lost := source.remarks.lost) and config.unreadable == "stop":
        raise DataError(
            f"{name}: {printable(lost[0])} is a link that leads nowhere; repair or remove it, or leave it out: "
            "--set data.unreadable=skip"
        )
    layout += source.remarks.words()
    preprocessing, typical = sampled_preprocessing(
        images, train.indices, image_size=config.image_size, max_image_size=config.max_image_size, crop_pct=config.crop_pct,
        skip_unreadable=config.unreadable == "skip",
    )  # fmt: skip
    if config.normalisation == "imagenet":
        preprocessing = imagenet_normalised(preprocessing)
    parts = DataParts(
        name, classes, train, search, TestPart(tests), preprocessing, layout, config, remarks=source.remarks, typical_side=typical
    )
    return parts if config.unlabelled is None else with_unlabelled(parts, config.unlabelled)


def with_unlabelled(parts: DataParts, path: Path) -> DataParts:
    """The parts with the images of a folder or .tar file beside them, for distillation only.

    Those that the search or test part holds are left out; which they are is told from their files, and no score is taken.
    Raises `DataError` where no images are left, and for a folder that is among the classes.
    """
    images, remarks = unlabelled_images(path)
    shown = printable(path)
    if isinstance(images, FileImages) and images.root.resolve() in _class_folders(parts):
        raise DataError(f"{shown} is taken as a class of {parts.source}; move it elsewhere, and give where it is")
    every = _whole(UNLABELLED, images)
    held = held_by(every, (parts.search, parts.test.sealed))
    if len(held) == len(every):
        raise DataError(f"{shown} holds only images that the search or test part of {parts.source} holds; give others")
    left = replace(every, indices=tuple(index for index in every.indices if index not in held))
    names = tuple(called(images, index) for index in sorted(held))
    found = Unlabelled(left, shown, held_out=names, remarks=remarks.inside(shown))
    return replace(parts, unlabelled=found, config=parts.config.model_copy(update={UNLABELLED: path}))


def _class_folders(parts: DataParts) -> set[Path]:
    """The folders of the classes, where images lie in folders."""
    below = [part.images for part in parts.three if isinstance(part.images, FileImages)]
    return {(images.root / top).resolve() for images in below for top in {file.parts[0] for file in images.files}}


def _cut(source: Source, fractions: Mapping[str, float], config: DataConfig) -> dict[str, tuple[int, ...]]:
    """Indices of the source's train images by part."""
    labels = source.train.labels
    if not fractions:
        return {"rest": tuple(range(len(labels)))}
    try:
        if config.group_by is not None:
            keys = group_keys([source.train.name(index) for index in range(len(labels))], config.group_by)
            return grouped(labels, keys, fractions, config.split_seed, source.classes)
        return stratified(labels, fractions, config.split_seed)
    except DataError as error:
        counts = Counter(int(label) for label in labels)
        small = "" if config.group_by else f"class {source.classes[min(counts, key=lambda label: counts[label])]!r}: "
        raise DataError(f"{source.name}: {small}{error}") from error


def _whole(name: str, images: Images) -> Part:
    return Part(name, images, tuple(range(len(images.labels))))


def groups_by_part(parts: Sequence[Part], group_by: str) -> dict[str, dict[str, int]]:
    """How many images of each group lie in each part: group, part, count. Raises `DataError` as `group_keys` does."""
    found: dict[str, dict[str, int]] = {}
    for part in parts:
        for key in group_keys([part.images.name(index) for index in part.indices], group_by):
            counts = found.setdefault(key, {})
            counts[part.name] = counts.get(part.name, 0) + 1
    return found


def _words_on_groups(parts: Sequence[Part], group_by: str, has_effect: bool) -> str:
    """What the groups came to, in words that continue a sentence."""
    groups = groups_by_part(parts, group_by)
    words = f", in whole groups ({len(groups)} by {group_by!r})" if has_effect else f"; group_by {group_by!r} has nothing to cut"
    missing = [
        f"{number} classes are missing in {part.name}"
        for part in parts[1:]
        if (number := len(set(parts[0].labels.tolist()) - set(part.labels.tolist())))
    ]
    shared = [key for key, counts in groups.items() if len(counts) > 1]
    if shared:
        missing.append(f"{len(shared)} groups lie in more than one part, e.g. {printable(shared[0])!r}")
    return words + "".join(f"; {text}" for text in missing)


def parts_of_record(record: Mapping[str, Any], source: str | None = None, *, unlabelled: bool = False) -> DataParts:
    """The parts that a record of data names, loaded again; `source` replaces where the images lie.

    The classes have the order of the record. Images without labels, which training alone takes, come with them where `unlabelled`
    asks for those and `source` is not given. Raises `DataError` when it is damaged, or the images there are no longer its own.
    """
    try:
        if record["config"] is None and source is None:
            raise DataError(f"the weights come from {record['source']!r}, which names no images here; give --data")
        config = DataConfig.model_validate(record["config"] or {"image_size": record["preprocessing"]["image_size"]})
        if source is not None or not unlabelled:
            config = config.model_copy(update={UNLABELLED: None})
        names = record.get("classes", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("its classes are not a list of names")
        recorded = (
            {}
            if source is not None
            else {
                name: (record["parts"][name]["digest"], record["parts"][name]["images"])
                for name in (*PARTS, *([] if config.unlabelled is None else [UNLABELLED]))
            }
        )
    except (KeyError, TypeError, ValidationError) as error:
        if isinstance(error, ValidationError):
            reason = first_problem(error)
        else:
            reason = f"{error} is missing" if isinstance(error, KeyError) else "it is not laid out as one"
        raise DataError(f"the record of data is damaged or foreign ({reason}); expected the one a run wrote") from error
    if source is not None:
        parts = _as_recorded(load_parts(config.model_copy(update={"source": source})), record)
        return check_readable(parts) if config.unreadable == "skip" else parts
    try:
        parts = without_recorded(load_parts(config), record)
    except DataError as error:
        if is_named(config.source) or Path(config.source).exists() or Path(config.source).is_absolute():
            raise
        raise DataError(
            f"{error}; the network's record names it from the folder where the training was started: go there, or give --data"
        ) from error
    for name, part in parts.record["parts"].items():
        digest, count = recorded[name]
        if part["digest"] != digest:
            raise DataError(
                f"{config.source}: the {name} part is not the one of the record ({part['images']} images, then {count}); "
                "the images changed, or lie elsewhere: give --data"
            )
    return parts


def _as_recorded(parts: DataParts, record: Mapping[str, Any]) -> DataParts:
    """The parts with the classes in the order of a record, where these are the same.

    A record from before ranges of values were measured also keeps its preprocessing, where that would differ.
    """
    names = recorded_names(record)
    if names is not None and are_the_same(parts.classes, names):
        parts = parts.in_order(names)
    if parts.preprocessing.value_range is None or record.get("config") is None:
        return parts
    recorded = Preprocessing.from_dict(record.get("preprocessing"))
    return replace(parts, preprocessing=recorded) if recorded.value_range is None else parts


def check_readable(parts: DataParts, progress: Progress = silent, most: int = 100_000) -> DataParts:
    """Decodes every image of all parts once and gives the parts without those that cannot be read.

    A part of more than `most` images is not checked, since that takes hours; with `unreadable: skip` it is, since training
    would end at the first. Reading is not scoring: the sealed test part is opened directly, and nothing is written into its
    ledger. Raises `DataError` naming the first image that cannot be read, with `skip` their number when they are too many.
    """
    skips = parts.config.unreadable == "skip"
    checked = [part for part in parts.every if skips or len(part) <= most]
    broken: dict[str, dict[int, DataError]] = {}
    done, total = 0, sum(map(len, checked))
    for part in checked:
        with closing(for_each(part.images, part.indices, partial(_read_error, part.images))) as errors:
            for index, error in zip(part.indices, errors, strict=True):
                if error is not None:
                    if not skips:
                        raise DataError(f"{error}, or leave out what cannot be read: --set data.unreadable=skip") from error
                    broken.setdefault(part.name, {})[index] = error
                done += 1
                progress("check images", done, total)
    count = sum(map(len, broken.values()))
    if count > parts.config.max_unreadable:
        first = next(iter(next(iter(broken.values())).values()))
        raise DataError(
            f"{count} images cannot be read, more than max_unreadable={parts.config.max_unreadable}; the first: {first}"
        )
    return _without(parts, {name: set(errors) for name, errors in broken.items()})


def without_unreadable(part: Part) -> tuple[Part, tuple[str, ...]]:
    """The part without the images that cannot be decoded, and the names of those. Raises `DataError` where none is left."""
    with closing(for_each(part.images, part.indices, partial(_read_error, part.images))) as errors:
        broken = {index: error for index, error in zip(part.indices, errors, strict=True) if error is not None}
    if len(broken) == len(part):
        raise next(iter(broken.values()), None) or DataError("there are no images")
    kept = tuple(index for index in part.indices if index not in broken)
    return replace(part, indices=kept), tuple(called(part.images, index) for index in broken)


def _read_error(images: Images, index: int) -> DataError | None:
    try:
        applied(images, index, partial(convert, in_chans=3))
    except DataError as error:
        return error
    return None


def without_recorded(parts: DataParts, record: Mapping[str, Any]) -> DataParts:
    """The parts without the images that a record of data names as unreadable, and prepared as it says where it is older.

    Raises `DataError` when an image is not there.
    """
    named = record.get("unreadable", {}) if isinstance(record, Mapping) else None
    if (
        not isinstance(named, Mapping)
        or not set(named) <= {*PARTS, UNLABELLED}
        or not all(isinstance(v, list) for v in named.values())
    ):
        raise DataError("the record of data is damaged or foreign (see unreadable in it); expected the one a run wrote")
    parts = _as_recorded(parts, record)
    broken: dict[str, set[int]] = {}
    for part in parts.every:
        if part.name in named:
            names = set(map(str, named[part.name])) - set(parts.unreadable.get(part.name, ()))  # left out already
            found = {called(part.images, index): index for index in part.indices}
            if lost := sorted(names - set(found)):
                raise DataError(f"{parts.source}: {lost[0]} was left out of the {part.name} part, and is there no longer")
            broken[part.name] = {found[name] for name in names}
    return _without(parts, broken)


def _without(parts: DataParts, broken: Mapping[str, set[int]]) -> DataParts:
    """The parts without some indices. Raises `DataError` when a class has no image left to train on."""
    if not any(broken.values()):
        return parts
    found, kept = dict[str, tuple[str, ...]](), dict[str, Part]()
    for part in parts.every:
        bad = broken.get(part.name, set())
        kept[part.name] = replace(part, indices=tuple(index for index in part.indices if index not in bad))
        if bad:
            found[part.name] = tuple(called(part.images, index) for index in sorted(bad))
    if lost := set(parts.train.labels.tolist()) - set(kept["train"].labels.tolist()):
        raise DataError(f"{parts.source}: no image of class {parts.classes[min(lost)]!r} can be read; repair some")
    if empty := [name for name, part in kept.items() if not len(part)]:
        raise DataError(f"{parts.source}: no image of the {empty[0]} part can be read; repair some")
    names, layout = [name for part, some in found.items() if part in PARTS for name in some], parts.layout
    if names:
        words = "image that cannot be read was" if len(names) == 1 else "images that cannot be read were"
        layout += f"; {len(names)} {words} left out: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
    unreadable = {**parts.unreadable, **{name: (*parts.unreadable.get(name, ()), *some) for name, some in found.items()}}
    unlabelled = parts.unlabelled
    if unlabelled is not None:
        unlabelled = replace(unlabelled, part=kept[UNLABELLED], unreadable=unreadable.get(UNLABELLED, ()))
    return replace(
        parts,
        train=kept["train"],
        search=kept["search"],
        test=replace(parts.test, sealed=kept["test"]),
        layout=layout,
        unreadable=unreadable,
        unlabelled=unlabelled,
    )
