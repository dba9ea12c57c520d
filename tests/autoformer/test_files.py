"""Files and folders that are complete or absent, and digests that tell weights apart."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from autoformer.errors import CheckpointError, DataError, OutputExistsError
from autoformer.files import (
    append_line,
    claim_folder,
    file_digest,
    json_digest,
    read_json,
    refuse_existing,
    refuse_pipes,
    replacing,
    sole_worker,
    unsealed,
    whole_lines,
    write_folder,
    write_json,
)
from autoformer.temporary import folder_beside
from autoformer.tensors import read_metadata, read_tensors, tensors_digest, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2]), "c": torch.tensor(0.5, dtype=torch.float16)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tensors_come_back_with_values_types_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "new" / "weights.safetensors"
    write_tensors(TENSORS, path, {"epoch": 3, "nested": {"é": [1, 2]}})
    found = read_tensors(path)
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert read_metadata(path) == {"epoch": 3, "nested": {"é": [1, 2]}}
    with safe_open(path, framework="np") as file:  # an ordinary safetensors file
        assert set(file.keys()) == set(TENSORS)


def test_transposed_and_shared_tensors_are_stored_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    write_tensors({"whole": base.t(), "part": base[:, 1:3].clone()}, tmp_path / "w.safetensors")
    assert torch.equal(read_tensors(tmp_path / "w.safetensors")["whole"], base.t())


def test_json_is_sorted_readable_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json({"b": 1, "a": "é"}, path)
    content = hashlib.sha256(b'{"a":"\\u00e9","b":1}').hexdigest()
    expected = f'{{\n  "a": "é",\n  "b": 1,\n  "content_sha256": "{content}"\n}}\n'
    assert path.read_text(encoding="utf-8") == expected
    assert read_json(path) == {"a": "é", "b": 1}


def test_json_that_was_changed_after_it_was_written_is_refused_unless_its_digest_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json({"limit": 10, "name": "a"}, path)
    path.write_text(path.read_text().replace("10", "18"))
    with pytest.raises(CheckpointError, match=r"value.json was damaged or edited: .*if the change is meant, remove its content"):
        read_json(path)
    path.write_text(json.dumps({"name": "a", "limit": 18}))
    assert read_json(path) == {"limit": 18, "name": "a"}  # written by hand, or by an earlier version
    write_json({"numbers": {2: "two", 10: "ten"}}, path)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=8))  # the same content
    assert read_json(path) == {"numbers": {"2": "two", "10": "ten"}}


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json({"old": True}, path)
    with pytest.raises(TypeError):
        write_json({"new": object()}, path)
    assert read_json(path) == {"old": True}

    def write_half() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert read_json(path) == {"old": True}
    assert names(tmp_path) == ["value.json"]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json({"old": True}, path)
    program = (
        "import os, signal, sys; from pathlib import Path; from autoformer.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as beside:\n"
        "    beside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    assert read_json(path) == {"old": True}


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    with write_folder(target) as beside:
        (beside / "one").write_text("1")
        assert not target.exists()
        (beside / "two").write_text("2")
    assert names(target) == ["one", "two"]
    assert names(target.parent) == ["folder"]


def test_a_folder_whose_writing_failed_does_not_appear(tmp_path: Path) -> None:
    def write_half() -> None:
        with write_folder(tmp_path / "folder") as beside:
            (beside / "one").write_text("1")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_half()
    assert names(tmp_path) == []


def test_an_empty_folder_is_used_and_a_filled_one_refused(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with write_folder(target) as beside:
        (beside / "one").write_text("1")
    assert names(target) == ["one"]
    with pytest.raises(OutputExistsError, match="nothing was written"), write_folder(target):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExistsError, match="already exists"):
        refuse_existing(tmp_path / "file")


def test_of_two_commands_that_write_a_folder_at_once_the_slower_one_says_so(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    slower = pytest.raises(OutputExistsError, match="folder already exists; choose another --out or move it away")
    with slower, write_folder(target) as beside:
        (beside / "b").write_text("slower")
        with write_folder(target) as quicker:
            (quicker / "a").write_text("quicker")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "a"], "nothing is left of the slower one"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"3"])
def test_damaged_json_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.json") as caught:
        read_json(tmp_path / "bad.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_truncated_tensors_are_refused_by_name(tmp_path: Path, share: float) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors({"a": torch.zeros(100)}, path, {})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    for read in (read_tensors, read_metadata):
        if share > 0.4 and read is read_metadata:
            continue  # the header may still be whole
        with pytest.raises(CheckpointError, match=r"weights\.safetensors is truncated or not a safetensors file"):
            read(path)


def test_a_pickle_is_no_safetensors_file(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_tensors(tmp_path / "weights.safetensors")


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (read_json, read_tensors):
        with pytest.raises(CheckpointError, match="absent does not exist"):
            read(tmp_path / "absent")


def test_digests_tell_values_names_types_and_shapes_apart() -> None:
    base = {"a": torch.arange(6.0)}
    others = [
        {"b": torch.arange(6.0)},
        {"a": torch.arange(6.0).view(2, 3)},
        {"a": torch.arange(6).int()},
        {"a": torch.arange(6.0) + 1e-6},
        {"a": torch.arange(6.0), "b": torch.zeros(0)},
    ]
    assert len({tensors_digest(tensors) for tensors in [base, *others]}) == 6
    assert tensors_digest({"a": torch.arange(6.0).view(2, 3).t().contiguous().t().flatten()}) == tensors_digest(base)
    two = {"x": torch.zeros(1), "y": torch.ones(1)}
    assert tensors_digest(two) == tensors_digest(dict(reversed(two.items())))


def test_digests_do_not_depend_on_order_of_keys_or_on_the_process(tmp_path: Path) -> None:
    assert json_digest({"a": 1, "b": [2]}) == json_digest({"b": [2], "a": 1})
    assert json_digest({"a": 1}) != json_digest({"a": 2})
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc", FIPS 180-2
    assert file_digest(tmp_path / "file") == expected


def test_weights_that_do_not_fit_on_the_disk_leave_nothing_and_raise_oserror(tmp_path: Path) -> None:
    """A real limit: files of this process may not exceed 10 kB."""
    path = tmp_path / "w.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="large"):
            write_tensors({"weight": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_does_not_hold_the_folder_of_its_parent(tmp_path: Path) -> None:
    """Loader processes are forks, and outlive a killed parent for seconds."""
    code = f"""
import os, sys, time
from pathlib import Path
from autoformer.files import sole_worker
with sole_worker(Path({str(tmp_path)!r})):
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    time.sleep(0.5)
    os._exit(7)  # as if killed
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7
    with sole_worker(tmp_path):
        pass


def test_the_lock_of_a_folder_is_gone_when_the_work_is_done_and_while_it_lasts_nobody_else_comes_in(tmp_path: Path) -> None:
    with sole_worker(tmp_path):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(OutputExistsError, match="another process works in"), sole_worker(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_holder_removed_meanwhile_is_not_taken_for_the_one_that_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and holding it another process may end, and a third begin."""
    flock, calls = fcntl.flock, []

    def meanwhile(lock: Any, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
            (tmp_path / ".lock").touch()
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    with sole_worker(tmp_path):
        assert len(calls) == 2
        monkeypatch.undo()
        with pytest.raises(OutputExistsError), sole_worker(tmp_path):
            pass


def test_pipes_among_words_are_refused_and_what_the_system_names_is_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    reader, writer = os.pipe()  # as the shell's <(command) hands one over
    try:
        refuse_pipes(["export", str(tmp_path), str(tmp_path / "file"), "a\0b", "", "/dev/null", f"/dev/fd/{reader}", "x" * 5000])
    finally:
        os.close(reader)
        os.close(writer)
    for word in (f"{tmp_path}/pipe", f"--data={tmp_path}/pipe", f"timm:vit@{tmp_path}/pipe"):
        with pytest.raises(DataError, match="pipe is a named pipe, not a file"):
            refuse_pipes(["evaluate", word])


def test_weights_that_were_changed_are_refused_wherever_the_bit_is(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    written = {"a": torch.arange(4.0), "b": torch.ones(3, dtype=torch.float16)}
    write_tensors(written, path, {"step": 3})
    whole = path.read_bytes()
    digest = tensors_digest(written)
    for place in (len(whole) - 1, len(whole) - 9, whole.index(b"step") + 8, whole.index(b"F16") + 1):  # values, metadata, a type
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"w.safetensors is (damaged|truncated)"):
            read_tensors(path)
    path.write_bytes(whole)
    assert tensors_digest(read_tensors(path, digest)) == digest
    with pytest.raises(CheckpointError, match="holds other weights than were written"):
        read_tensors(path, "0" * 64)  # whole, and not those that the record beside it names


def test_weights_of_an_earlier_version_are_held_against_the_record_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weights = {"a": torch.arange(4.0)}
    save_file(weights, path)  # no digest in its header
    assert torch.equal(read_tensors(path)["a"], weights["a"])
    assert torch.equal(read_tensors(path, tensors_digest(weights))["a"], weights["a"])
    with pytest.raises(CheckpointError, match="other weights"):
        read_tensors(path, tensors_digest({"a": torch.arange(1, 5.0)}))


def test_a_line_that_was_changed_is_not_read_as_another(tmp_path: Path) -> None:
    append_line({"ms": 1.25}, tmp_path / "rows.jsonl")
    (line,) = whole_lines(tmp_path / "rows.jsonl")
    assert unsealed(json.loads(line), "line 1") == {"ms": 1.25}
    with pytest.raises(CheckpointError, match="line 1 was damaged or edited"):
        unsealed(json.loads(line.replace(b"1.25", b"1.35")), "line 1")


@pytest.mark.parametrize("said", ["I/O error: No space left (os error 28)", "IoError(Os { code: 28, kind: StorageFull })"])
def test_a_full_disk_under_weights_is_an_error_of_the_system(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import safetensors.torch
    import torch
    from safetensors import SafetensorError

    from autoformer.tensors import write_tensors

    def full(*_: object) -> None:
        raise SafetensorError(f"Error while serializing: {said}")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_tensors({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_what_a_process_left_that_was_killed_as_it_claimed_a_folder_goes_with_the_next_claim(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    claim_folder(folder, {"kind": "run"})
    left = folder / ".identity.json.k1lled.partial"
    left.mkdir()
    with folder_beside(folder / "identity.json") as held:  # another process is at it now
        left.mkdir(exist_ok=True)
        claim_folder(folder, {"kind": "run"})
        assert held.is_dir()
        assert not left.exists()


def test_a_folder_of_other_work_is_told_by_its_kind_before_its_digests(tmp_path: Path) -> None:
    claim_folder(tmp_path / "run", {"kind": "run", "data": "790c", "recipe": {}})
    for other, said in (
        ({"kind": "supernet", "data": "d28a"}, "its kind is 'run' there and 'supernet' now"),
        ({"kind": "run", "data": "d28a", "recipe": {}}, "its images are others (added, changed or removed)"),
    ):
        with pytest.raises(OutputExistsError, match=re.escape(f"holds another run: {said}; choose another --out")):
            claim_folder(tmp_path / "run", other)


def test_three_differences_between_two_works_are_named_with_both_values(tmp_path: Path) -> None:
    held: dict[str, Any] = {"kind": "run", "recipe": {"budget": {"max_latency": "0ms", "max_params": None}, "race": {"cost": 1}}}
    claim_folder(tmp_path / "run", held)
    changes = (
        (
            {"budget": {"max_latency": "4ms", "max_params": 3}},
            "budget.max_latency is '0ms' there and '4ms' now, budget.max_params is not given there and 3 now",
        ),
        (
            {"budget": {"max_flops": 1, "max_latency": "4ms", "max_params": 3}, "race": {"cost": 2}},
            "budget.max_flops is not given there and 1 now, budget.max_latency is '0ms' there and '4ms' now, "
            "budget.max_params is not given there and 3 now, and more",
        ),
        ({"budget": {"max_latency": "0ms", "max_params": 3}}, "budget.max_params is not given there and 3 now"),
        ({"race": None}, "race is given there and not given now"),
    )
    for change, said in changes:
        with pytest.raises(OutputExistsError, match=re.escape(f"holds another run: its {said}; choose another --out")):
            claim_folder(tmp_path / "run", {**held, "recipe": {**held["recipe"], **change}})
