"""Weights of other programs: what a file is decides, numbers of numpy are harmless, and what is missing is said by name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autoformer.errors import CheckpointError
from autoformer.pretrained.foreign_weights import read_foreign_weights
from autoformer.pretrained.official import import_official
from autoformer.space import PRESETS

WEIGHTS = {"a": torch.arange(4.0), "b": torch.ones(2, 2)}


def saved(path: Path, content: Any, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_foreign_weights(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_renamed_files_are_read_as_what_they_are(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "weights.pth")
    saved(tmp_path / "weights.safetensors", WEIGHTS)
    for name in ("weights.pth", "weights.safetensors"):
        found = read_foreign_weights(tmp_path / name)
        assert torch.equal(found["a"], WEIGHTS["a"])


def test_other_files_are_called_by_their_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    assert "is a Git LFS pointer" in refusal(path)
    path.write_bytes(b"<!doctype html><title>Google Drive - Quota exceeded</title>")
    assert "is a web page" in refusal(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "is an HDF5 file" in refusal(path)
    np.save(tmp_path / "weights.npy", np.ones(3))
    assert "is an array of numpy" in refusal(tmp_path / "weights.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.pth", "x")
    assert "is a zip archive of other files; unpack it" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", "x")
        archive.writestr("net/constants.pkl", "x")
    assert "is a TorchScript program" in refusal(path)
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "number", [np.float64(81.25), np.float32(0.5), np.float16(2), np.int64(-3), np.uint8(200), np.bool_(True)], ids=repr
)
def test_numbers_of_numpy_beside_the_weights_are_harmless(number: Any, zipped: bool, tmp_path: Path) -> None:
    state = {"model": WEIGHTS, "best_accuracy": number}
    path = saved(tmp_path / "weights.pth", state, _use_new_zipfile_serialization=zipped)
    assert set(read_foreign_weights(path)) == {"a", "b"}


@pytest.mark.parametrize(
    "value",
    [np.arange(3), np.array([object()], dtype=object), np.array(None, dtype=object)],
    ids=["numbers", "objects", "nothing"],
)
def test_arrays_of_numpy_are_refused(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    try:
        torch.save({"model": WEIGHTS, "extra": value}, path)
    except AttributeError:  # what cannot be pickled cannot arrive
        return
    assert "nothing in it was run" in refusal(path)


def test_numpys_pickles_run_none_of_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "weights.pth", {"model": WEIGHTS, "best": np.float64(0.5)})
    called: list[object] = []
    monkeypatch.setattr("numpy._core.multiarray.scalar", lambda *given: called.append(given))
    read_foreign_weights(path)
    assert not called


def test_an_empty_average_does_not_hide_the_weights(tmp_path: Path) -> None:
    empty: dict[str, torch.Tensor] | None
    for empty in ({}, None):
        path = saved(tmp_path / "weights.pth", {"model_ema": empty, "model": WEIGHTS})
        assert set(read_foreign_weights(path)) == {"a", "b"}
    averaged = {"a": torch.zeros(4)}
    path = saved(tmp_path / "weights.pth", {"model_ema": averaged, "model": WEIGHTS})
    assert torch.equal(read_foreign_weights(path)["a"], averaged["a"])


def test_a_file_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pth", {"net": WEIGHTS, "epoch": 3})
    assert "holds no weights: at the top are 'net', 'epoch'; expected" in refusal(path)
    path = saved(tmp_path / "weights.pth", {"model_ema": {"module": WEIGHTS, "decay": 0.9}, "model": WEIGHTS})
    assert "under 'model_ema' are 'module', 'decay'" in refusal(path)
    path = saved(tmp_path / "weights.pth", {**WEIGHTS, "step": 7})
    assert "(2 tensors, and 'step' is a int)" in refusal(path)
    assert "at the top is a list" in refusal(saved(tmp_path / "weights.pth", [1, 2]))
    assert "at the top is nothing" in refusal(saved(tmp_path / "weights.pth", {}))
    many = {f"{index}\x1b[31m": index for index in range(500)}
    found = refusal(saved(tmp_path / "weights.pth", many))
    assert "and 488 more" in found
    assert found.isprintable()


def test_a_released_supernet_of_another_width_names_its_space(tmp_path: Path) -> None:
    width = PRESETS["tiny"].stored_embed_dim
    path = saved(tmp_path / "tiny.pth", {"model": {"patch_embed_super.proj.weight": torch.zeros(width, 3, 16, 16)}})
    for name in ("small", "base"):
        with pytest.raises(
            CheckpointError, match=rf"width is 256 in the file and {PRESETS[name].stored_embed_dim} .*: that of tiny"
        ):
            import_official(path, PRESETS[name])


def test_weights_of_something_else_are_listed(tmp_path: Path) -> None:
    path = saved(tmp_path / "resnet.pth", {"conv1.weight": torch.zeros(8, 3, 7, 7), "fc.bias": torch.zeros(5)})
    with pytest.raises(CheckpointError, match=r"missing, expected .*; the file's tensors are conv1\.weight, fc\.bias"):
        import_official(path, PRESETS["tiny"])
