"""What lies among the images of a source and is not taken, or is taken in another way than it seems: nothing vanishes unsaid."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

from autoformer.data.decoding import TO_JPEG, is_heic
from autoformer.data.images import IMAGE_ENDINGS, printable

CLUTTER = (  # what file managers, archivers and disks leave behind, in lower case; names that begin with "." are hidden too
    "@eadir", "@recycle", "@recently-snapshot", "#recycle", "$recycle.bin", "__macosx", "lost+found", "system volume information",
    "thumbs.db", "ehthumbs.db", "desktop.ini",
)  # fmt: skip
REMEDIES = {  # endings of images all the same, and how to make of them what is read
    ".heic .heif .hif": TO_JPEG,
    ".avif": "install a Pillow that reads AVIF (11.3 or newer), or store them as PNG or JPEG",  # where Pillow cannot read it
    ".raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf": "develop them to JPEG or TIFF, with darktable or the camera's own program",
    ".psd .svg .eps .ico .icns .xbm": "export them as PNG from the program that made them",
    ".dcm .nii": "export each slice as TIFF of 16 bit, whose values are kept",
    ".exr .hdr": "store them as TIFF of floating point values",
    ".jxl .jp2 .j2k .jxr .tga .dds .pcx .pbm .pnm .pam .npy .pjpeg": "store them as PNG or JPEG",
}
REMEDY_OF = {ending: remedy for endings, remedy in REMEDIES.items() for ending in endings.split() if ending not in IMAGE_ENDINGS}
STARTS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ",
)  # fmt: skip
AVIF_BRANDS = (b"avif", b"avis")  # after "ftyp"
LOOKED_INTO = 100  # files of each ending whose first bytes are looked at
MOST_ENDINGS = 6  # shown

SAID = {  # kind: one, many, what `data check` calls it, what is done
    "others": ("file is not taken as an image", "files are not taken as images",
               "files that are not taken as images", "left out"),
    "empty": ("folder holds no image and is no class", "folders hold no image and are no classes",
              "folders of classes without an image that is taken",
              "no classes: networks will not know them; fill or remove them"),
    "beside": ("name beside the parts is not used", "names beside the parts are not used",
               "what lies beside the parts", "not used"),
    "hidden": ("hidden name or folder of thumbnails was left out", "hidden names and folders of thumbnails were left out",
               "hidden files and folders, and what file managers and archivers leave behind", "left out, and not looked into"),
    "special": ("pipe, socket or device was left out", "pipes, sockets and devices were left out",
                "named pipes, sockets and devices", "left out, and never opened"),
    "repeated": ("link to what is there already was left out", "links to what is there already were left out",
                 "links to what is among the images already", "left out"),
    "lost": ("link leads nowhere and was left out", "links lead nowhere and were left out", "links that lead nowhere",
             "left out; repair or remove them"),
    "links": ("link in the archive was left out", "links in the archive were left out", "links inside archives",
              "left out; pack the files themselves (tar --dereference --hard-dereference)"),
    "alike": ("class holds folders of the same names as the others", "classes all hold folders of the same names",
              "classes that all hold folders of the same names",
              "taken as classes; if the folders inside are the classes, merge them, or call parts train and test"),
    "spelled": ("class was found by a name in another Unicode form", "classes were found by names in another Unicode form",
                "folders whose name another part spells in another Unicode form (NFC, NFD)", "taken as the same class"),
}  # fmt: skip


@dataclass(frozen=True)
class Remarks:
    """Paths below the root of a source, by what is to be said of them."""

    others: tuple[str, ...] = ()  # files of endings that are not taken
    empty: tuple[str, ...] = ()  # folders at the top without an image
    beside: tuple[str, ...] = ()  # at the top, beside folders of parts
    hidden: tuple[str, ...] = ()
    special: tuple[str, ...] = ()  # neither files nor folders nor links
    repeated: tuple[str, ...] = ()  # links to files and folders that are among the images already
    lost: tuple[str, ...] = ()  # links that lead nowhere, under names that are not those of images
    links: tuple[str, ...] = ()  # in archives
    alike: tuple[str, ...] = ()  # folders at the top, each with the same folders inside
    spelled: tuple[str, ...] = ()  # folders that another part spells in another Unicode form

    def __add__(self, other: Remarks) -> Remarks:
        return Remarks(**{name: getattr(self, name) + getattr(other, name) for name in _KINDS})

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(path for kind in _KINDS for path in getattr(self, kind))

    def inside(self, folder: str) -> Remarks:
        """The same of a folder, with paths from where it lies."""
        return Remarks(**{name: tuple(f"{folder}/{path}" for path in getattr(self, name)) for name in _KINDS})

    def below(self, folder: str) -> Remarks:
        """What is to be said of one folder at the top, with paths from there."""
        start = folder + "/"
        return Remarks(
            **{name: tuple(p.removeprefix(start) for p in getattr(self, name) if p.startswith(start)) for name in _KINDS}
        )

    def words(self) -> str:
        """All of it in words that continue a sentence; "" where there is nothing to say."""
        text = ""
        for kind, (one, many, _, _) in SAID.items():
            if paths := getattr(self, kind):
                endings = f" ({by_ending(paths)})" if kind == "others" else ""
                text += f"; {len(paths)} {one if len(paths) == 1 else many}{endings}, e.g. {printable(paths[0])}"
        return text

    def found(self, root: Path | None) -> Iterator[tuple[str, Sequence[str], str, str]]:
        """Kind, paths, what they are, and what is done about them; with `root`, where they lie, some files are looked into."""
        images = tuple(path for path in self.others if Path(path).suffix.lower() in REMEDY_OF)
        disguised = () if root is None else _disguised(root, set(self.others) - set(images))
        for remedy, members in _by_remedy(images).items():
            yield "formats", members, f"images of formats that are not read ({by_ending(members)})", f"left out; {remedy}"
        if disguised:
            yield (
                "endings", disguised, f"images under endings that are not taken ({by_ending(disguised)})",
                f"left out; give them one of {' '.join(IMAGE_ENDINGS)}",
            )  # fmt: skip
        told = {*images, *disguised}
        for kind, (_, _, text, consequence) in SAID.items():
            if paths := tuple(path for path in getattr(self, kind) if path not in told):
                yield kind, paths, f"{text} ({by_ending(paths)})" if kind == "others" else text, consequence


_KINDS = tuple(field.name for field in fields(Remarks))
NOTHING = Remarks()


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over: a dot file, or what programs leave behind."""
    return name.startswith(".") or name.lower() in CLUTTER


def by_ending(paths: Sequence[str]) -> str:
    """How many files there are of each ending, the most frequent first."""
    counts = Counter(PurePosixPath(path).suffix.lower() or "no ending" for path in paths).most_common()
    shown = [f"{printable(ending)} {number}" for ending, number in counts[:MOST_ENDINGS]]
    rest = sum(number for _, number in counts[MOST_ENDINGS:])
    return ", ".join([*shown, f"others {rest}"] if rest else shown)


def remedies(paths: Sequence[str]) -> str:
    """How to make readable images of files with these endings, as the end of a sentence; "" where none is known to be one."""
    return "".join(f"; {remedy}" for remedy in _by_remedy([path for path in paths if Path(path).suffix.lower() in REMEDY_OF]))


def _by_remedy(paths: Sequence[str]) -> dict[str, list[str]]:
    """The paths of images of formats that are not read, by what to do about them."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(REMEDY_OF[Path(path).suffix.lower()], []).append(path)
    return found


def _disguised(root: Path, paths: set[str]) -> tuple[str, ...]:
    """Those of the files that begin as images do; of each ending, the first few are looked at."""
    taken: Counter[str] = Counter()
    found = []
    for path in sorted(paths):
        ending = Path(path).suffix.lower()
        taken[ending] += 1
        if taken[ending] <= LOOKED_INTO and _begins_as_an_image(root / path):
            found.append(path)
    return tuple(found)


def _begins_as_an_image(path: Path) -> bool:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            start = file.read(16) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return False
    webp = start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    avif = start[4:8] == b"ftyp" and start[8:12] in AVIF_BRANDS
    return start.startswith(STARTS) or webp or avif or is_heic(start)


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting, whatever stands there by now."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
