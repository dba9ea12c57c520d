"""What `doctor` says of packages that are there and do not load."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from autoformer.profiling.profiles.doctor import examine
from tests.support.commands import command


@pytest.mark.parametrize(
    ("raised", "advice"),
    [
        (
            "RuntimeError('operator torchvision::nms does not exist')",
            f"torch {version('torch')} and torchvision {version('torchvision')} do not fit together; install both from one "
            "index: pip install --force-reinstall torch torchvision",
        ),
        ("ImportError('libjpeg.so.9 is not there')", "libjpeg.so.9 is not there"),
    ],
)
def test_a_package_that_does_not_load_does_not_work(
    raised: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise {raised}", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    found = {one.what: one for one in examine()}
    assert (found["torchvision"].works, found["torchvision"].advice) == (False, advice)
    assert found["torchvision"].found == f"torchvision {version('torchvision')}, which does not load"
    assert found["onnx"].works
    answer = command("doctor")
    assert answer.code == 1
    assert "needed and not working: torchvision" in answer.out


def test_what_is_only_useful_may_be_missing() -> None:
    assert [one.what for one in examine() if one.needed and not one.works] == []
    assert command("doctor", "--json").code == 0
