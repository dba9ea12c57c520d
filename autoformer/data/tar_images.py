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
from autoformer.data.folders import class_numbers
from autoformer.data.images import IDENTITY_BYTES, IMAGE_ENDINGS, printable
from autoformer.data.remarks import NOTHING, Remarks, is_hidden
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
    """What archives hold: images, and what else lies beside them."""

    members: tuple[Member, ...]  # sorted by name
    remarks: Remarks = NOTHING  # files that are neither images nor .cls, links and the like
    seen: frozenset[str] = frozenset()  # all folders, those without images too

    @property
    def folders(self) -> list[str]:
        """The folders at the top, sorted."""
        return sorted({PurePosixPath(member.name).parts[0] for member in self.members if "/" in member.name})

    @property
    def loose(self) -> list[str]:
        """Names of images in no folder."""
        return [member.name for member in self.members if "/" not in member.name]

    @property
    def empty(self) -> list[str]:
        """The folders at the top without an image, sorted."""
        return sorted({PurePosixPath(folder).parts[0] for folder in self.seen} - set(self.folders))

    def below(self, folder: str) -> TarIndex:
        """What lies in one folder of the top, its name taken off."""
        start = folder + "/"
        kept = (replace(m, name=m.name.removeprefix(start)) for m in self.members if m.name.startswith(start))
        return TarIndex(tuple(kept), self.remarks.below(folder), frozenset(_without_start(self.seen, start)))

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
        names, numbers = class_numbers(self.folders, classes, "the archive")
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
    remarks, seen = NOTHING, set[str]()
    for archive, place in archives:
        index = _scan(archive)
        remarks += index.remarks.inside(place) if place else index.remarks
        seen |= {f"{place}/{folder}" if place else folder for folder in index.seen}
        for member in index.members:
            name = f"{place}/{member.name}" if place else member.name
            members[name] = replace(member, name=name)
    return TarIndex(tuple(members[name] for name in sorted(members)), remarks, frozenset(seen))


def _scan(archive: Path) -> TarIndex:
    """What one archive holds. Of two members of one name the later counts, as when unpacking."""
    if archive.name.lower().endswith(COMPRESSED):
        raise DataError(
            f"{printable(archive)} is compressed, so its images cannot be read one by one; unpack it, or store it as a plain .tar"
        )
    images: dict[str, tuple[int, int]] = {}
    classes: dict[str, int] = {}
    others: list[str] = []
    hidden: dict[str, None] = {}
    special: list[str] = []
    links: list[str] = []
    seen: set[str] = set()
    try:
        with tarfile.open(archive, "r:") as tar:
            for info in tar:
                name = PurePosixPath(info.name).as_posix().lstrip("/")
                parts = name.split("/")
                if out_of_sight := next((n for n, part in enumerate(parts, 1) if part != "." and is_hidden(part)), None):
                    hidden["/".join(parts[:out_of_sight])] = None
                    continue
                seen.update("/".join(parts[:depth]) for depth in range(1, len(parts) + info.isdir()))
                if not info.isreg():
                    if not info.isdir():
                        (links if info.issym() or info.islnk() else special).append(name)
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
    members = tuple(Member(name, archive, *place, classes.get(_key(name))) for name, place in images.items())
    remarks = Remarks(others=tuple(others), hidden=tuple(hidden), special=tuple(special), links=tuple(links))
    return TarIndex(members, remarks, frozenset(seen - {"", "."}))


def _without_start(names: Iterable[str], start: str) -> Iterable[str]:
    return (name.removeprefix(start) for name in names if name.startswith(start))


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
