"""The plan that `docs/architecture.md` shows is the one that the imports draw."""

from __future__ import annotations

from tests.support import house
from tests.support.source_tree import ROOT, import_graph


def test_the_picture_in_the_documentation_is_drawn_from_the_imports() -> None:
    """Print it anew with `python -m tests.support.house`."""
    assert f"```text\n{house.plan()}\n```" in (ROOT / "docs" / "architecture.md").read_text()


def test_few_arrows_lead_between_rooms() -> None:
    drawn = house.arrows(import_graph())
    print({name: len(pairs) for name, pairs in drawn.items()})
    for name, most in house.MOST_ARROWS.items():
        assert len(drawn[name]) <= most, sorted(drawn[name])
