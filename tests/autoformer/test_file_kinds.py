"""What lies in the place of a file is called by its name."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from autoformer.errors import CheckpointError
from autoformer.export.bundle import unpack_bundle
from autoformer.export.graphs.external_data import check_external_data
from autoformer.file_kinds import placeholder, stand_in
from autoformer.files import read_json
from autoformer.tensors import read_metadata, read_tensors
from tests.support.commands import command

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>quota exceeded</body></html>\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "is a Git LFS pointer, .*git lfs pull"),
        (PAGE, "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
        (b'{"error": "Repository not found"}', "is a text in JSON"),
        (b"Entry not found", "is a text of 15 bytes \\('Entry not found'\\)"),
        (gzip.compress(b"x" * 3000, mtime=0), "is compressed with gzip; unpack it first"),
    ],
)
def test_what_stands_in_for_a_binary_file_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    for name, read in (("a.safetensors", read_tensors), ("b.safetensors", read_metadata), ("c.onnx", check_external_data)):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} {words}"):
            read(path)
    assert re.search(f"c\\.onnx {words}", command("check", tmp_path / "c.onnx").error)
    archive = tmp_path / "d.zip"
    archive.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"d\\.zip {words}"):
        unpack_bundle(archive, tmp_path / "out")


def test_a_pointer_in_place_of_our_json_is_named_and_damaged_json_is_not_taken_for_a_message(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=r"manifest\.json is a Git LFS pointer.*expected a folder written by this tool"):
        read_json(path)
    path.write_text('{"format": ', encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_json(path)


def test_nothing_is_known_of_other_bytes_and_of_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for content in (b"", b"\x00\x01\x02", b"word\x07 and bell", b"\xff\xfe\x00"):
        path.write_bytes(content)
        assert stand_in(path) is None
    assert placeholder(tmp_path / "absent") is None
    assert stand_in(tmp_path) is None
