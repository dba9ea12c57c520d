"""Tables on stdout: into a pipe as long as they are, or as COLUMNS says, and never with blanks at the end of a line."""

from __future__ import annotations

import pytest

from autoformer.cli.console import print_facts, print_table

PATH = "runs/photos-of-the-second-of-may/export/a-network-with-a-long-name.fp32.onnx"
WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
ROWS = [(PATH, WORDS, "1"), ("b", "short", "2")]


def table_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_table(f"answers of {PATH}", ("file", "words", "number"), ROWS)
    return capsys.readouterr().out.splitlines()


def test_in_a_pipe_every_row_is_one_line_without_trailing_blanks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS")
    title, _, _, long, short = table_lines(capsys)
    assert title == f"answers of {PATH}"
    assert [cell.strip() for cell in long.split("│")] == [PATH, WORDS, "1"]
    assert [cell.strip() for cell in short.split("│")] == ["b", "short", "2"]
    assert not any(line.endswith(" ") for line in (title, long, short))
    print_facts("facts", {"path": PATH, "long": 40 * "word ", "empty": ""})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines == [line.rstrip() for line in lines]


@pytest.mark.parametrize("columns", [130, 100, 10])
def test_in_a_pipe_columns_wraps_between_words_and_leaves_paths_whole(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = table_lines(capsys)
    assert any(line.startswith(f"{PATH} ") for line in lines)
    assert len(lines) > 5
    widest = max(map(len, lines))
    assert widest <= max(columns, len(f"{PATH} │ thirteen │ number"))
    assert " ".join(" ".join(line.split("│")[1].strip() for line in lines[3:-1]).split()) == WORDS
    print_facts("facts", {"path": PATH, "long": WORDS})
    facts = capsys.readouterr().out
    assert PATH in facts
    assert max(map(len, facts.splitlines())) <= max(columns, len(f"path  {PATH}"))


def test_a_value_of_columns_that_is_no_number_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "wide")
    assert len(table_lines(capsys)) == 5
