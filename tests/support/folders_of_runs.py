"""The content of a folder, to be compared before and after."""

from __future__ import annotations

from pathlib import Path


def digest_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_bytes().hex()[:200] for path in sorted(folder.rglob("*")) if path.is_file()}
