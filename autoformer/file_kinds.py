"""What a file is that is not what its name says: what version control and failed downloads leave in its place, and other formats.

The standard library alone; it reads the first bytes and believes nothing further.
"""

from __future__ import annotations

import json
from pathlib import Path

HEAD = 2048  # bytes that are looked at
LFS = b"version https://git-lfs.github.com/spec/"
PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error", b"<!--")
SAID = 80  # letters shown of a text
BLANK = b"\xef\xbb\xbf \t\r\n"
COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
MOST_JSON = 1 << 20  # bytes that are parsed to say what a file is
AGAIN = "download or copy the file itself again"


def placeholder(path: Path) -> str | None:
    """What lies at `path` in place of any file, and what to do, to stand after its name: a pointer of Git LFS or a web page.

    None where it is neither, or cannot be read.
    """
    head = _head(path)
    if head.startswith(LFS):
        return "is a Git LFS pointer, which stands for the file; fetch that with: git lfs pull"
    if head.lstrip(BLANK).lower().startswith(PAGE):
        return f"is a web page, as it is saved in place of a file; {AGAIN}"
    return None


def stand_in(path: Path) -> str | None:
    """As `placeholder`, for a file that is no text: also the message of a server, and what was compressed once more."""
    if (found := placeholder(path)) is not None:
        return found
    head = _head(path)
    if head.lstrip(BLANK).startswith((b"{", b"[")) and _is_json(path):
        return f"is a text in JSON; {AGAIN}"
    if 0 < len(head) < HEAD and (said := _text(head)):
        return f"is a text of {len(head)} bytes ({said}); {AGAIN}"
    for start, packed in COMPRESSED.items():
        if head.startswith(start):
            return f"is compressed with {packed}; unpack it first"
    return None


def _text(head: bytes) -> str | None:
    """The first line of a short text; None for what is no text."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return None
    lines = text.replace("\r\n", "\n").replace("\t", " ").split("\n")
    if not all(line.isprintable() for line in lines):
        return None
    return repr(next((line.strip()[:SAID] for line in lines if line.strip()), "blank"))


def _is_json(path: Path) -> bool:
    try:
        return path.stat().st_size <= MOST_JSON and isinstance(json.loads(path.read_bytes()), dict | list)
    except (OSError, ValueError, RecursionError):
        return False


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""
