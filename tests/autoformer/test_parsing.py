"""A path that is not there, in an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoformer.errors import CheckpointError
from autoformer.parsing import refuse_missing


def test_a_path_that_is_not_there_is_answered_with_its_neighbour_or_with_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    refuse_missing(tmp_path / "photos", "a run")
    with pytest.raises(CheckpointError, match=rf"photso does not exist; did you mean {tmp_path}/photos\?$"):
        refuse_missing(tmp_path / "photso", "a run")
    for name in ("engine", "no/such/folder"):
        with pytest.raises(CheckpointError, match=rf"{name} does not exist; expected a run$"):
            refuse_missing(tmp_path / name, "a run")
