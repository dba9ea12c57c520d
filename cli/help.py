"""The help of the program and of its groups: what each command does in a whole sentence, the program's own in panels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperGroup

LONGEST = 400  # letters of a sentence, which wraps

# The commands as the help shows them, in the order in which a person needs them.
PANELS: dict[str, tuple[str, ...]] = {
    "All in one": ("run", "recipe"),
    "Data": ("data",),
    "Train": ("train", "finetune", "import-official"),
    "Search": ("audit", "search", "race", "extract"),
    "Export": ("export", "check", "inspect", "refit"),
    "Measure": ("profile", "evaluate", "compare", "predict"),
    "Deploy": ("bundle",),
    "Report": ("report", "describe", "doctor"),
}


class Group(TyperGroup):
    """Commands with the first sentence of their help, uncut."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        self._panel(ctx, formatter, "Commands", self.list_commands(ctx))

    def _panel(self, ctx: Any, formatter: Any, title: str, names: Iterable[str]) -> None:
        commands = ((name, self.get_command(ctx, name)) for name in names)
        with formatter.section(title):
            formatter.write_dl([(name, one.get_short_help_str(LONGEST)) for name, one in commands if one is not None])


class Panels(Group):
    """The same under `PANELS`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for panel, names in PANELS.items():
            self._panel(ctx, formatter, panel, names)
