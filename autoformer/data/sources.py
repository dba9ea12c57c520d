"""What a data source holds, before it is cut: images with labels, as its makers laid them out.

A source is the embedded `digits` (scikit-learn's 1,797 handwritten digits), a folder of one folder per class, a tar archive or
a folder of archives, or any name that `timm.data.create_dataset` knows (`torch/cifar10`, `hfds/...`, `tfds/...`, `wds/...`).

Folders of parts are known by their names in any case (`Train`, `TEST`), in an archive too; `train` alone is one folder of
classes. Archives beside each other: `train-0000.tar` or `val.tar` holds images of that part; otherwise an archive whose images
lie in no folder is a class with the archive's name, and archives with folders are laid over each other. The same rules hold
for archives in folders `train` and `val`. The class of an image is the folder at the top that it lies in, however deep.

What can only be read in order (`wds/`, `tfds/`, `hfids/`) is held in memory up to a limit. A data set in Parquet files, or one
that the package `datasets` saved to disk, is read with `hfds/FOLDER`. Named data sets are asked for the splits train, validation
and test; of the last two either may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoformer.data.images import (
    NO_IMAGE,
    Images,
    dataset_images,
    digits,
    folder_images,
    printable,
    visible_files,
    visible_folders,
    words_left_out,
)
from autoformer.data.named_sets import is_named, load_split, place_of
from autoformer.data.tar_images import COMPRESSED, TarIndex, index_archives
from autoformer.errors import DataError

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing", "eval"),
}
ARCHIVES = (".tar", *COMPRESSED)

Labelled = Callable[[str | None, Sequence[str] | None], tuple[Images, tuple[str, ...], str]]
"""The images of a folder at the top (None: of everything) for given classes; class names, and what was left out, in words."""


@dataclass(frozen=True)
class Source:
    """Images as their makers cut them."""

    name: str
    classes: tuple[str, ...]  # those of train, for all parts
    train: Images
    val: Images | None = None
    test: Images | None = None
    left_out: str = ""  # in words that continue a sentence


def open_source(source: str, root: Path | None, max_memory_mib: int) -> Source:
    """The images that `source` names. Raises `DataError` where it cannot be used as it is."""
    if source == "digits":
        images, names = digits()
        return Source("digits", names, images)
    path = Path(source).expanduser()
    if path.is_file() and source.lower().endswith(ARCHIVES):
        index = index_archives([(path, "")])
        return _laid_out(path, index.folders, _of_index(path, index))
    if path.is_dir():
        folders = visible_folders(path)
        if archives := _archives(path, folders):
            index = index_archives(archives)
            return _laid_out(path, index.folders, _of_index(path, index))
        return _laid_out(path, [folder.name for folder in folders], _of_folder(path))
    if is_named(source):
        return _named(source, root, max_memory_mib)
    raise DataError(
        f"data source {source!r} is neither 'digits', nor a folder or .tar file that exists, nor a data set name like "
        "'torch/cifar10@FOLDER', 'hfds/NAME', 'tfds/NAME', 'wds/NAME'"
    )


def _of_folder(root: Path) -> Labelled:
    def images_of(folder: str | None, classes: Sequence[str] | None) -> tuple[Images, tuple[str, ...], str]:
        images, names = folder_images(root / folder if folder else root, classes)
        return images, names, images.left_out

    return images_of


def _of_index(root: Path, index: TarIndex) -> Labelled:
    def images_of(folder: str | None, classes: Sequence[str] | None) -> tuple[Images, tuple[str, ...], str]:
        part = index.below(folder) if folder else index
        try:
            images, names = part.images(classes)
        except DataError as error:
            raise DataError(f"{printable(root)}{f', {folder}' if folder else ''}: {error}") from error
        return images, names, words_left_out(part.others, *NO_IMAGE)

    return images_of


def _laid_out(root: Path, folders: Sequence[str], images_of: Labelled) -> Source:
    """A source from what stands at its top."""
    found = {part: folder for part, names in SPLIT_FOLDERS.items() if (folder := _split_folder(root, folders, names))}
    alone = len(found) == len(folders)
    if "train" not in found and found and (alone or len(found) == 2):
        held = " and ".join(found.values())
        raise DataError(f"{printable(root)} holds {held} but no train folder; expected a folder 'train' beside them")
    if "train" not in found or len(found) == 1:  # beside folders of other names, "train" is a class of vehicles
        images, classes, left_out = images_of(found["train"] if "train" in found and alone else None, None)
        return Source(str(root), classes, images, left_out=left_out)
    train, classes, left_out = images_of(found["train"], None)
    held_out: dict[str, Images] = {}
    for part in ("val", "test"):
        if part in found:
            held_out[part], _, words = images_of(found[part], classes)
            left_out += words
    if "test" not in held_out:
        held_out = {"test": held_out["val"]}
    return Source(str(root), classes, train, held_out.get("val"), held_out["test"], left_out)


def _split_folder(root: Path, folders: Sequence[str], names: Sequence[str]) -> str | None:
    """The folder of a part: the first of `names` that is there, in any case."""
    for name in names:
        same = [folder for folder in folders if folder.lower() == name]
        if len(same) > 1:
            raise DataError(f"{root} holds both {same[0]} and {same[1]}; expected one folder '{name}'")
        if same:
            return same[0]
    return None


def _archives(root: Path, folders: Sequence[Path]) -> list[tuple[Path, str]]:
    """Archives in `root` or in its folders of parts and where their images lie; empty where images lie in folders."""
    if not folders:
        return _placed([path for path in visible_files(root) if path.name.lower().endswith(ARCHIVES)])
    known = {name for names in SPLIT_FOLDERS.values() for name in names}
    found: list[tuple[Path, str]] = []
    for folder in folders:
        inside = [path for path in visible_files(folder) if path.name.lower().endswith(ARCHIVES)]
        if folder.name.lower() not in known or not inside or visible_folders(folder):
            return []
        found += [(path, f"{folder.name}/{place}".rstrip("/")) for path, place in _placed(inside)]
    return found


def _placed(archives: Sequence[Path]) -> list[tuple[Path, str]]:
    """The archives, each with the folder that its images are thought to lie in."""
    known = {name for names in SPLIT_FOLDERS.values() for name in names}
    words = {path: re.match(r"[a-z]*", path.stem.lower()) for path in archives}
    parts = {path: word.group() for path, word in words.items() if word is not None and word.group() in known}
    if len(parts) == len(archives):
        return sorted(parts.items())
    placed = []
    for path in sorted(archives):
        index = index_archives([(path, "")])
        is_class = len(index.loose) == len(index.members) and all(member.label is None for member in index.members)
        placed.append((path, path.stem if is_class else ""))
    return placed


def _named(source: str, root: Path | None, max_memory_mib: int) -> Source:
    name, folder = place_of(source, root)
    train, classes = dataset_images(load_split(name, folder, "train"), max_memory_mib=max_memory_mib)
    held_out: list[Images] = []
    names = ("validation",) if name.lower().startswith("torch/") else ("validation", "test")  # torch/ takes one for the other
    for split in names:
        try:
            found = load_split(name, folder, split)
        except DataError:
            if split == names[-1] and not held_out:
                raise
            continue
        held_out.append(dataset_images(found, classes, max_memory_mib)[0])
    return Source(name, classes, train, val=held_out[0] if len(held_out) == 2 else None, test=held_out[-1])
