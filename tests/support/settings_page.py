"""docs/settings.md, written from the models that check recipes: python -m tests.support.settings_page"""

from __future__ import annotations

from autoformer.cli.chain.explained import Setting, every_setting
from tests.support.source_tree import ROOT

PAGE = ROOT / "docs" / "settings.md"
HEAD = """# Settings

Every key of a recipe, section by section. `--set KEY=VALUE` gives one on the command line, `autoformer recipe explain KEY` tells
of one; where nothing stands as default, nothing is set. Written by `python -m tests.support.settings_page`.
"""


def page() -> str:
    """The whole page."""
    sections: dict[str, list[Setting]] = {}
    for setting in every_setting():
        sections.setdefault(setting.key.partition(".")[0] if "." in setting.key else "", []).append(setting)
    top = sections.pop("")
    parts = [HEAD, "## At the top\n\n" + _table([one for one in top if one.key not in sections])]
    for name, settings in sections.items():
        own = next((one.meaning for one in top if one.key == name), "")
        parts.append(f"## {name}\n\n" + (f"A section, {own}.\n\n" if own else "") + _table(settings))
    return "\n".join(parts)


def _table(settings: list[Setting]) -> str:
    rows = [f"| `{one.key}` | {_cell(one.takes)} | {_code(one.default)} | {_cell(one.meaning)} |\n" for one in settings]
    return "| setting | takes | default | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
