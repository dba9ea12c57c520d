"""What a data source holds, before it is cut: images with labels, as its makers laid them out.

A source is the embedded `digits` (scikit-learn's 1,797 handwritten digits), a folder of one folder per class, a tar archive or
a folder of archives, or any name that `timm.data.create_dataset` knows (`named_sets.py`).

Folders of parts are known by their names in any case (`layout.py`), in an archive too; `train` alone is one folder of
classes. Archives beside each other: `train-0000.tar` or `val.tar` holds images of that part; otherwise an archive whose images
lie in no folder is a class with the archive's name, and archives with folders are laid over each other. The same rules hold
for archives in folders `train` and `val`. The class of an image is the folder at the top that it lies in, however deep.

What can only be read in order (`wds/`, `tfds/`, `hfids/`) is held in memory up to a limit. A data set in Parquet files, or one
that the package `datasets` saved to disk, is read with `hfds/FOLDER`. Named data sets are asked for the splits train, validation
and test; of the last two either may be missing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoformer.data.classes import by_text, same_name
from autoformer.data.folders import every_image, folder_images, holds_images, names_in, visible_files, visible_folders
from autoformer.data.images import NO_LABEL, FileImages, Images, dataset_images, digits, printable
from autoformer.data.layout import KNOWN, Parts, Shape, alike, parts_among, refuse_named_like_parts
from autoformer.data.named_sets import is_named, load_split, place_of
from autoformer.data.remarks import NOTHING, Remarks, is_hidden, remedies
from autoformer.data.tar_images import COMPRESSED, TarImages, index_archives
from autoformer.errors import DataError
from autoformer.files import IDENTITY

ARCHIVES = (".tar", *COMPRESSED)
OURS = (IDENTITY, "bundle.json")  # in folders of runs and of bundles

Labelled = Callable[[str | None, Sequence[str] | None], tuple[Images, tuple[str, ...], Remarks]]
"""The images of a folder at the top (None: of everything) for given classes; class names, and what is to be said."""


@dataclass(frozen=True)
class Source:
    """Images as their makers cut them."""

    name: str
    classes: tuple[str, ...]  # those of train, for all parts
    train: Images
    val: Images | None = None
    test: Images | None = None
    remarks: Remarks = NOTHING


@dataclass(frozen=True)
class Whole:
    """All images of a source, by the parts in which its makers laid them; "all" where they made none."""

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Images]
    remarks: Remarks = NOTHING


def open_source(source: str, root: Path | None, max_memory_mib: int) -> Source:
    """The images that `source` names. Raises `DataError` where it cannot be used as it is."""
    if source == "digits":
        images, names = digits()
        return Source("digits", names, images)
    if (place := _place(source)) is not None:
        return _laid_out(place, parts_among(place.where, place.folders, place.shape_of))
    return _named(source, root, max_memory_mib)


def open_whole(source: str, root: Path | None, max_memory_mib: int) -> Whole:
    """The same to look at every image: parts need no train, and one class is enough."""
    if (place := None if source == "digits" else _place(source)) is None:
        opened = open_source(source, root, max_memory_mib)
        held = {"train": opened.train, "val": opened.val, "test": opened.test}
        parts = {part: images for part, images in held.items() if images is not None}
        return Whole(opened.name, opened.classes, parts if len(parts) > 1 else {"all": opened.train}, opened.remarks)
    found = parts_among(place.where, place.folders, place.shape_of, train_needed=False)
    if found is None:
        images, classes, remarks = place.images_of(None, None)
        return Whole(str(place.root), classes, {"all": images}, remarks + place.beside)
    spelled = {same_name(name): name for folder in found.folders.values() for name in place.images_of(folder, None)[1]}
    names = by_text(spelled.values())
    read = {part: place.images_of(folder, names) for part, folder in found.folders.items()}
    remarks = place.beside
    for part, folder in found.folders.items():
        remarks += read[part][2].inside(folder)
    return Whole(str(place.root), names, {part: images for part, (images, _, _) in read.items()}, remarks)


@dataclass(frozen=True)
class _Place:
    """A folder or archives, before its parts are told from its classes."""

    root: Path
    folders: list[str]  # at the top
    tops: list[str]  # everything at the top
    images_of: Labelled
    shape_of: Callable[[str], Shape]
    beside: Remarks = NOTHING  # what lies beside archives

    @property
    def where(self) -> str:
        return printable(self.root)


def _place(source: str) -> _Place | None:
    """What a path names; None for the name of a data set. Raises `DataError` for neither."""
    path = _expanded(Path(source))
    if path.is_file() and source.lower().endswith(ARCHIVES):
        return _of_archives(path, [(path, "")])
    if path.is_dir():
        folders = visible_folders(path)
        if made := next((file for place in (path, *folders) for name in OURS if (file := place / name).is_file()), None):
            what = printable(made.relative_to(path))
            raise DataError(f"{printable(path)} holds what this tool wrote ({what}); give the folder of the images")
        if archives := _archives(path, folders):
            return _of_archives(path, archives, set(names_in(path)) - {folder.name for folder in folders})
        tops = [folder.name for folder in folders]
        return _Place(path, tops, names_in(path), _of_folder(path), lambda name: _shape(path / name))
    if is_named(source):
        return None
    said = (
        "is a file, not a folder of one folder per class or a .tar file"
        if path.is_file()
        else "is no folder or .tar file that exists"
    )
    beside = visible_folders(path.parent) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, [folder.name for folder in beside], 1)
    meant = f"; did you mean {printable(path.parent / near[0])}?" if near and not path.exists() else ""
    others = ", nor 'digits' or a data set name like 'torch/cifar10@FOLDER', 'hfds/NAME', 'tfds/NAME', 'wds/NAME'"
    raise DataError(f"data source {source!r} {said}{meant or others}")


def _expanded(path: Path) -> Path:
    """The path with `~` as the home folder it stands for. Raises `DataError` where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise DataError(f"{printable(path)} begins with a home folder that is not known here; write the whole path") from error


def unlabelled_images(path: Path) -> tuple[FileImages | TarImages, Remarks]:
    """The images of a folder, however deep, of a .tar file, or of a folder that holds such files and no images; without classes.

    Raises `DataError` where there are none, and for what `open_source` would refuse in files and folders.
    """
    path, archives, others = _expanded(path), list[tuple[Path, str]](), tuple[str, ...]()
    if path.is_dir():
        images, remarks = every_image(path)
        if images.files:
            return images, remarks
        others = remarks.others
        archives = [(path / name, name) for name in others if name.lower().endswith(ARCHIVES)]
    elif path.is_file() and path.name.lower().endswith(ARCHIVES):
        archives = [(path, "")]
    else:
        raise DataError(
            f"unlabelled images {printable(path)} are neither a folder nor a .tar file that exists; give one of images"
        )
    index = index_archives(archives)
    if not index.members:
        expected = f"expected a folder or a .tar file of images without labels{remedies(others)}"
        raise DataError(f"{printable(path)} holds no images; {expected}")
    return TarImages(index.members, [NO_LABEL] * len(index.members)), index.remarks


def _of_folder(root: Path) -> Labelled:
    def images_of(folder: str | None, classes: Sequence[str] | None) -> tuple[Images, tuple[str, ...], Remarks]:
        return folder_images(root / folder if folder else root, classes)

    return images_of


def _shape(folder: Path) -> Shape:
    return Shape(holds_images(folder), tuple(inner.name for inner in visible_folders(folder)))


def _of_archives(path: Path, archives: Sequence[tuple[Path, str]], beside: Collection[str] = ()) -> _Place:
    """The images of archives; `beside` are the files that lie with them, themselves among them."""
    index = index_archives(archives)
    held = {archive.relative_to(path).as_posix() for archive, _ in archives if beside}

    def images_of(folder: str | None, classes: Sequence[str] | None) -> tuple[Images, tuple[str, ...], Remarks]:
        part = index.below(folder) if folder else index
        try:
            images, names = part.images(classes)
        except DataError as error:
            raise DataError(f"{printable(path)}{f', {folder}' if folder else ''}: {error}") from error
        return images, names, replace(part.remarks, empty=tuple(sorted(set(part.empty) - set(names))))

    def shape_of(folder: str) -> Shape:
        below = index.below(folder)
        return Shape(bool(below.loose), tuple(below.folders))

    tops = sorted({name.partition("/")[0] for name in (*index.seen, *index.remarks.paths)})
    return _Place(path, index.folders, tops, images_of, shape_of, _beside(sorted(set(beside) - held)))


def _laid_out(place: _Place, parts: Parts | None) -> Source:
    """A source from its parts, if it has some."""
    images_of, source = place.images_of, str(place.root)
    if parts is None:
        images, classes, remarks = images_of(None, None)
        remarks += place.beside + Remarks(alike=alike(place.folders, place.shape_of))
        return Source(source, classes, images, remarks=remarks)
    folders = parts.folders
    train, classes, remarks = images_of(folders["train"], None)
    remarks = remarks.inside(folders["train"])
    held_out: dict[str, Images] = {}
    for part in ("val", "test"):
        if part in folders:
            held_out[part], _, beside = images_of(folders[part], classes)
            remarks += beside.inside(folders[part])
    remarks += _beside([name for name in place.tops if name not in folders.values()]) + place.beside
    if "test" not in held_out:
        held_out = {"test": held_out["val"]} if held_out else {}
    return Source(source, classes, train, held_out.get("val"), held_out.get("test"), remarks)


def _beside(names: Sequence[str]) -> Remarks:
    """Names at the top that are not used."""
    return Remarks(beside=tuple(n for n in names if not is_hidden(n)), hidden=tuple(n for n in names if is_hidden(n)))


def _archives(root: Path, folders: Sequence[Path]) -> list[tuple[Path, str]]:
    """Archives in `root` or in its folders of parts and where their images lie; empty where images lie in folders."""
    if not folders:
        return _placed([path for path in visible_files(root) if path.name.lower().endswith(ARCHIVES)])
    found: list[tuple[Path, str]] = []
    for folder in folders:
        inside = [path for path in visible_files(folder) if path.name.lower().endswith(ARCHIVES)]
        if folder.name.lower() not in KNOWN or not inside or visible_folders(folder):
            return []
        found += [(path, f"{folder.name}/{place}".rstrip("/")) for path, place in _placed(inside)]
    return found


def _placed(archives: Sequence[Path]) -> list[tuple[Path, str]]:
    """The archives, each with the folder that its images are thought to lie in."""
    words = {path: re.match(r"[a-z]*", path.stem.lower()) for path in archives}
    parts = {path: word.group() for path, word in words.items() if word is not None and word.group() in KNOWN}
    if len(parts) == len(archives):
        return sorted(parts.items())
    refuse_named_like_parts(archives)
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
