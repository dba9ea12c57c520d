"""Images inside tar archives, read where they lie: nothing is unpacked, and no memory is taken beyond the index.

Each reading opens the archive, so that the workers of a loader share no position in a file (timm's reader keeps one open
archive, which its forked workers would share). The names inside are laid out as below a folder, `CLASS/IMAGE`, and an
archive and the same files unpacked have the same digest. Where archives hold a `NAME.cls` beside each `NAME.jpg` - the layout
of WebDataset - the number in it is the class. A compressed archive has no places to read from and is refused.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from PIL import Image

from autoformer.data.decoding import decode
from autoformer.data.images import IDENTITY_BYTES, IMAGE_ENDINGS, printable
from autoformer.errors import DataError

COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst")
MAX_CLASSES = 100_000  # a damaged .cls must not exhaust the memory
MAX_CLS_BYTES = 32


@dataclass(frozen=True, slots=True)
class Member:
    """Where one image lies."""

    name: str  # below the root, with slashes
    archive: Path
    offset: int  # bytes
    size: int  # bytes
    label: int | None = None  # of a .cls file


@dataclass(frozen=True)
class TarImages:
    """Images inside archives."""

    members: tuple[Member, ...]
    labels: Sequence[int]

    def read(self, index: int) -> bytes:
        """The bytes of the image file. Raises `DataError` when the archive is gone or shorter than it was."""
        member = self.members[index]
        return self._bytes(member, member.offset, member.size)

    def open(self, index: int) -> Image.Image:
        return decode(self.read(index), self._printable(self.members[index]))

    def name(self, index: int) -> str:
        return self.members[index].name

    def identity(self, index: int) -> str:
        """The path, the size in bytes, and SHA-256 over the first and the last 4 KiB, as for a file in a folder."""
        member = self.members[index]
        ends = hashlib.sha256(self._bytes(member, member.offset, min(member.size, IDENTITY_BYTES)))
        start = max(0, member.size - IDENTITY_BYTES)
        ends.update(self._bytes(member, member.offset + start, member.size - start))
        return f"{printable(member.name)}:{member.size}:{ends.hexdigest()}"

    def _bytes(self, member: Member, offset: int, size: int) -> bytes:
        try:
            with member.archive.open("rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise DataError(f"{self._printable(member)} cannot be read ({error.strerror}); repair the archive") from error
        if len(content) < size:
            raise DataError(f"{self._printable(member)} cannot be read: the archive ends before it; copy the archive again")
        return content

    def _printable(self, member: Member) -> str:
        return f"{printable(member.archive)}/{printable(member.name)}"


@dataclass(frozen=True)
class TarIndex:
    """What archives hold: images, and how many other files."""

    members: tuple[Member, ...]  # sorted by name
    others: tuple[str, ...]  # names of files that are neither images nor .cls

    @property
    def folders(self) -> list[str]:
        """The folders at the top, sorted."""
        return sorted({PurePosixPath(member.name).parts[0] for member in self.members if "/" in member.name})

    @property
    def loose(self) -> list[str]:
        """Names of images in no folder."""
        return [member.name for member in self.members if "/" not in member.name]

    def below(self, folder: str) -> TarIndex:
        """What lies in one folder of the top, its name taken off."""
        start = folder + "/"
        kept = (replace(m, name=m.name.removeprefix(start)) for m in self.members if m.name.startswith(start))
        return TarIndex(tuple(kept), tuple(name.removeprefix(start) for name in self.others if name.startswith(start)))

    def images(self, classes: Sequence[str] | None = None) -> tuple[TarImages, tuple[str, ...]]:
        """The images and the class names; `classes`, those of train, must hold every class found.

        Raises `DataError` where images have no class, or one that train does not know.
        """
        if not self.members:
            raise DataError("the archive holds no images; expected CLASS/IMAGE, or NAME.jpg beside NAME.cls")
        if any(member.label is not None for member in self.members):
            labels = self._numbered()
            names = tuple(classes or map(str, range(max(labels) + 1)))
            if max(labels) >= len(names):
                raise DataError(f"class {max(labels)} is not among the {len(names)} classes that train has")
            return TarImages(self.members, labels), names
        if self.loose:
            raise DataError(f"image {printable(self.loose[0])} lies in no folder of the archive; expected CLASS/IMAGE")
        found = self.folders
        if classes and (strange := sorted(set(found) - set(classes))):
            raise DataError(f"class {strange[0]!r} is not one that train knows; known are {', '.join(classes[:8])}")
        names = tuple(classes or found)
        numbers = {name: number for number, name in enumerate(names)}
        return TarImages(self.members, [numbers[member.name.partition("/")[0]] for member in self.members]), names

    def _numbered(self) -> list[int]:
        labels = []
        for member in self.members:
            if member.label is None:
                raise DataError(f"{printable(member.archive)}: image {printable(member.name)} has no .cls beside it")
            labels.append(member.label)
        return labels


def index_archives(archives: Iterable[tuple[Path, str]]) -> TarIndex:
    """The images of archives; what an archive holds is laid below the path that stands beside it ("": nothing).

    Raises `DataError` for a file that is not a tar archive, is compressed or is damaged.
    """
    members: dict[str, Member] = {}
    others: list[str] = []
    for archive, place in archives:
        for member in _scan(archive, others):
            name = f"{place}/{member.name}" if place else member.name
            members[name] = replace(member, name=name)
    return TarIndex(tuple(members[name] for name in sorted(members)), tuple(others))


def _scan(archive: Path, others: list[str]) -> list[Member]:
    """The images of one archive. Of two members of one name the later counts, as when unpacking."""
    if archive.name.lower().endswith(COMPRESSED):
        raise DataError(
            f"{printable(archive)} is compressed, so its images cannot be read one by one; unpack it, or store it as a plain .tar"
        )
    images: dict[str, tuple[int, int]] = {}
    classes: dict[str, int] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for info in tar:
                name = PurePosixPath(info.name).as_posix().lstrip("/")
                if not info.isreg() or any(part.startswith(".") for part in name.split("/")):
                    continue
                _utf8(archive, name)
                if name.lower().endswith(".cls"):
                    classes[_key(name)] = _class_number(tar, info, archive)
                elif name.lower().endswith(IMAGE_ENDINGS) and not info.issparse():
                    images[name] = info.offset_data, info.size
                else:
                    others.append(name)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{printable(archive)} cannot be read as a tar archive ({error}); copy or pack it again") from error
    return [Member(name, archive, *place, classes.get(_key(name))) for name, place in images.items()]


def _key(name: str) -> str:
    """What the files of one sample share in WebDataset: everything up to the first dot of the file's name."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _class_number(tar: tarfile.TarFile, info: tarfile.TarInfo, archive: Path) -> int:
    file = tar.extractfile(info) if info.size <= MAX_CLS_BYTES else None
    text = file.read().strip() if file is not None else b""
    if not re.fullmatch(rb"\d{1,6}", text) or int(text) >= MAX_CLASSES:
        raise DataError(f"{printable(archive)}: {printable(info.name)} holds no class number below {MAX_CLASSES}")
    return int(text)


def _utf8(archive: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{printable(archive)}: the name {printable(name)} is not UTF-8, so no record can hold it") from error
