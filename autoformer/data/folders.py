"""The images of a folder, with a folder per class or without classes: what is taken, and what is passed over and said."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoformer.data.classes import numbers_of, same_name
from autoformer.data.images import IMAGE_ENDINGS, NO_LABEL, FileImages, printable
from autoformer.data.remarks import Remarks, by_ending, is_hidden, remedies
from autoformer.errors import DataError


def folder_images(root: Path, classes: Sequence[str] | None = None) -> tuple[FileImages, tuple[str, ...], Remarks]:
    """The images of a folder of one folder per class, the class names, sorted as text, and what was not taken.

    The class of an image is the folder directly below `root` that it lies in, however deep. Links are followed, and each real
    folder and file is taken once; what is neither file nor folder is never opened. With `classes` given (those of train) every
    folder with images must be one of them, in whatever Unicode form. Raises `DataError` for a folder that is empty, unreadable
    or without classes, for names that are not UTF-8, and for two folders of one name in two Unicode forms. A link that leads
    nowhere counts as an image that cannot be read where its ending is that of one.
    """
    walk = _Walk(root)
    files, others = _below(root, walk.images), tuple(_below(root, walk.others))
    if not files:
        strange = [path.name for path in others]
        seen = f", only files of other endings ({by_ending(strange)})" if others else ""
        raise DataError(
            f"{printable(root)} holds no images{seen}; expected one folder per class with image files in it{remedies(strange)}"
        )
    if loose := [file for file in files if len(file.parts) == 1]:
        folders = "images but no folder per class" if len(loose) == len(files) else f"{loose[0]} beside its folders of classes"
        raise DataError(f"{root} holds {folders}; sort them into {root}/CLASS/IMAGE")
    found = sorted({file.parts[0] for file in files})
    names, numbers = class_numbers(found, classes, printable(root))
    repeated = _posix(root, walk.repeated)
    empty = {path.name for path in visible_folders(root)} - {*found, *names, *repeated}
    remarks = Remarks(
        others=tuple(path.as_posix() for path in others),
        empty=tuple(sorted(empty)),
        hidden=_posix(root, walk.hidden),
        special=_posix(root, walk.special),
        repeated=repeated,
        lost=_posix(root, walk.lost),
        spelled=tuple(name for name in found if name not in names),
    )
    labels = [numbers[file.parts[0]] for file in files]
    return FileImages(root, tuple(files), labels), names, remarks


def every_image(root: Path) -> tuple[FileImages, Remarks]:
    """All images below a folder, however deep, without classes, and what was not taken.

    Raises `DataError` for folders that cannot be read and names that are not UTF-8.
    """
    walk = _Walk(root)
    remarks = Remarks(
        others=_posix(root, walk.others),
        hidden=_posix(root, walk.hidden),
        special=_posix(root, walk.special),
        repeated=_posix(root, walk.repeated),
        lost=_posix(root, walk.lost),
    )
    return FileImages(root, tuple(_below(root, walk.images)), [NO_LABEL] * len(walk.images)), remarks


def class_numbers(found: Sequence[str], classes: Sequence[str] | None, where: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of the classes, `classes` or else those `found`, and the number of each that was found.

    Raises `DataError` for a folder that is none of `classes`, and for one name in two Unicode forms.
    """
    held: dict[str, str] = {}
    for name in found:
        if (other := held.setdefault(same_name(name), name)) != name:
            raise DataError(
                f"{where} holds {printable(name)!r} twice, in two Unicode forms ({other!a}, {name!a}): one class to people, "
                "two to computers; put their images into one folder"
            )
    names = tuple(classes or found)
    try:
        return names, dict(zip(found, numbers_of(found, names), strict=True))
    except KeyError as error:
        strange = held[error.args[0]]
        known = ", ".join(names[:8])
        raise DataError(f"{where} holds class {strange!r}, which train does not; known are {known}") from error


def visible_folders(root: Path) -> list[Path]:
    """The folders directly below `root`, links to folders included, hidden ones not; sorted by name.

    Raises `DataError` when `root` cannot be read.
    """
    return [Path(entry.path) for entry in _entries(str(root)) if os.path.isdir(entry.path) and not is_hidden(entry.name)]


def visible_files(root: Path) -> list[Path]:
    """The files directly below `root`, hidden ones not; sorted by name. Raises `DataError` when `root` cannot be read."""
    return [Path(entry.path) for entry in _entries(str(root)) if os.path.isfile(entry.path) and not is_hidden(entry.name)]


def names_in(root: Path) -> list[str]:
    """The names of all that lies directly in `root`, hidden ones too, sorted. Raises `DataError` when it cannot be read."""
    return [entry.name for entry in _entries(str(root))]


def holds_images(folder: Path) -> bool:
    """Whether images lie directly in a folder. Raises `DataError` when it cannot be read."""
    return any(path.name.lower().endswith(IMAGE_ENDINGS) for path in visible_files(folder))


@dataclass
class _Walk:
    """What lies below a folder: images and the rest, as paths."""

    root: Path
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)  # links to what was found already
    lost: list[str] = field(default_factory=list)  # links that lead nowhere, under names that are not those of images

    def __post_init__(self) -> None:
        real_root = os.path.realpath(self.root)
        plain, linked = deque([(str(self.root), real_root)]), deque[tuple[str, str]]()
        seen: set[str] = set()  # real paths, of folders and of images
        linked_images: list[tuple[str, str]] = []
        while plain or linked:
            # Links wait for all that lies below the root itself: what a link shows again keeps the class it really lies in.
            through_link = not plain
            folder, real_folder = (linked if through_link else plain).popleft()
            if real_folder in seen:
                self.repeated.append(folder)
                continue
            seen.add(real_folder)
            for path, real, kind, is_link in self._resolved(folder, real_folder):
                if kind == "folder":
                    (linked if is_link or through_link else plain).append((path, real))
                elif kind == "special":
                    self.special.append(path)
                elif kind == "lost":
                    self.lost.append(path)
                elif not path.lower().endswith(IMAGE_ENDINGS):
                    self.others.append(path)
                elif is_link or through_link:
                    linked_images.append((path, real))
                else:
                    _utf8(path)
                    seen.add(real)
                    self.images.append(path)
        for path, real in sorted(linked_images):
            _utf8(path)
            if real in seen:
                self.repeated.append(path)
            else:
                seen.add(real)
                self.images.append(path)

    def _resolved(self, folder: str, real_folder: str) -> Iterator[tuple[str, str, str, bool]]:
        """Path, real path, what it is ("folder", "file", "special", "lost"), and whether it is a link, of all that is visible."""
        for entry in _entries(folder):
            if is_hidden(entry.name):
                self.hidden.append(entry.path)
            elif not entry.is_symlink():  # no call to the system for each of a million files
                kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "special"
                yield entry.path, os.path.join(real_folder, entry.name), kind, False
            else:
                try:
                    real = os.path.realpath(entry.path, strict=True)
                except OSError:  # an image that cannot be read, as one of a disk that is not there
                    is_image = entry.name.lower().endswith(IMAGE_ENDINGS)
                    yield entry.path, os.path.join(real_folder, entry.name), "file" if is_image else "lost", True
                    continue
                yield entry.path, real, "folder" if os.path.isdir(real) else "file" if os.path.isfile(real) else "special", True


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"folder {printable(folder)} cannot be read ({reason}); make it readable or remove it") from error


def _below(root: Path, paths: list[str]) -> list[Path]:
    return sorted(Path(path).relative_to(root) for path in paths)


def _posix(root: Path, paths: list[str]) -> tuple[str, ...]:
    return tuple(path.as_posix() for path in _below(root, paths))


def _utf8(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the name {printable(path)} is not UTF-8, so no record can hold it; rename it") from error
