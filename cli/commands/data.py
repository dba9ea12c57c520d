"""`autoformer data check`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from autoformer.cli.help import Group
from autoformer.cli.options import GroupBy, Json, Quiet, Set, Unlabelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoformer.data.check import DataCheck
    from autoformer.data.parts import DataParts
    from autoformer.data.sizes import TrainingSize

SIZE, SKIPPING = "data.image_size", "data.unreadable=skip"
SHOWN_CLASSES = 5  # the smallest
EXAMPLES = 2  # of one finding; --json names more
BAR = 40  # letters of the longest in the histogram

app = typer.Typer(cls=Group, help="Look at images before training on them.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Keeps `check` a subcommand."""


@app.command()
def check(
    source: Annotated[
        str, typer.Argument(help="digits, a folder, a .tar file, or a data set name of timm: torch/cifar10@FOLDER.")
    ],
    group_by: GroupBy = None,
    unlabelled: Unlabelled = None,
    near: Annotated[bool, typer.Option("--near/--no-near", help="Compare all images across parts for near duplicates.")] = True,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look at every image: classes, sizes, broken and odd files, duplicates; say what would be done, and what to type next.

    Ends with code 1 where training would be refused. Two cores take a minute or two for 10,000 photographs.

    Examples:

      autoformer data check photos/

      autoformer data check frames/ --group-by '(video\\d+)_' --set data.test_fraction=0.2
    """
    from autoformer.cli.chain.choosing_recipe import RecipeChoice, recipe_for
    from autoformer.cli.chain.recipe import parse_recipe
    from autoformer.cli.console import print_facts, print_json, progress_bar
    from autoformer.data.check import check_data

    overrides = [f"data.{setting.removeprefix('data.')}" for setting in settings or ()]
    given = {"data.source": source, "data.group_by": group_by, "data.unlabelled": unlabelled}
    config = parse_recipe({}, overrides, "data check", given).data
    chosen: list[RecipeChoice] = []

    def size_of(parts: DataParts) -> TrainingSize:
        chosen.append(recipe_for(parts))
        return chosen[0].size_for(parts)

    with progress_bar(quiet) as progress:
        found = check_data(config, near=near, choose_size=size_of, progress=progress)
    choice = chosen[0] if chosen and found.is_usable else None
    if group_by is not None:
        overrides.append(f"data.group_by={group_by}")
    if unlabelled is not None and choice is not None and choice.start is not None:  # which teaches
        overrides.append(f"data.unlabelled={unlabelled}")
    command = sharper = None
    if choice is not None:
        command = choice.command(source, overrides)
        shrunk = any(finding.kind == "shrunk" for finding in found.findings)
        if shrunk and config.image_size is None and found.training_size is not None:
            sharper = choice.command(source, [*overrides, f"{SIZE}={2 * found.training_size.pixels}"])
    if json:
        print_json({**found.to_dict(), "recipe": choice and asdict(choice), "next": command, "sharper": sharper})
    else:
        _show(found)
        if choice is not None and command is not None:
            better = {"better": choice.advice} if choice.advice else {}
            print_facts("", {"recipe": f"{choice.name}: {choice.reason}", **better})
            _offer("next", command)
            if sharper is not None:
                _offer("or sharper, in about 4 times the time", sharper)
        elif repaired := without_unreadable(found, source, overrides):
            _offer("next, without what cannot be read", repaired)
    if not found.is_usable:
        raise typer.Exit(1)


def _offer(what: str, command: str) -> None:
    """A command on a line of its own, which a terminal wraps without a break that is copied."""
    from autoformer.cli.console import say

    say(f"{what}:")
    say(f"  {command}")


def without_unreadable(found: DataCheck, source: str, given: Sequence[str]) -> str | None:
    """The command that leaves out what cannot be read, where that is all that training is refused for."""
    import shlex

    refusing = [finding for finding in found.findings if finding.refuses]
    if not refusing or not all(SKIPPING in finding.consequence for finding in refusing):
        return None
    words = ["autoformer", "data", "check", source]
    return shlex.join([*words, *(word for setting in (*given, SKIPPING) for word in ("--set", setting))])


def _examples(names: Sequence[str]) -> tuple[str, ...]:
    shown = [*names[:EXAMPLES], *(["..."] if len(names) > EXAMPLES else ())]
    return (f"for example {', '.join(shown)}",) if names else ()


def _show(found: DataCheck) -> None:
    from autoformer.cli.console import print_facts, print_table, say

    if not found.layout:  # no data set at all
        say(f"not usable: {found.findings[0].text}")
        return
    if found.classes:
        beside = {} if found.unlabelled is None else {"unlabelled": f"{found.unlabelled} images, for distillation only"}
        print_facts(found.source, {"parts": found.layout, "classes": len(found.classes), **beside})
        names = list(found.images)
        order = sorted(range(len(found.classes)), key=lambda label: (found.images["train"][label], label))
        shown = order if len(order) <= 2 * SHOWN_CLASSES else order[:SHOWN_CLASSES]
        rows = [(found.classes[label], *(str(found.images[name][label]) for name in names)) for label in shown]
        if len(shown) < len(order):
            left, largest = order[len(shown) :], found.images["train"][shown[-1]]
            larger = sum(found.images["train"][label] > largest for label in left)
            size = "larger" if larger == len(left) else "larger, or as large" if larger else "more, as large"
            rows.append((f"... {len(left)} {size} in train", *([""] * len(names))))
        rows.append(("all", *(str(sum(found.images[name])) for name in names)))
        say()
        print_table("images", ("class", *names), rows)
    if found.sizes is not None:
        most = max(one.images for one in found.sizes.shorter_sides)
        bars = [
            (f"{one.low}–{one.high - 1}", f"{one.images:,}", "█" * -(-BAR * one.images // most))
            for one in found.sizes.shorter_sides
        ]
        common = ", ".join(f"{one.width} × {one.height} ({one.images:,})" for one in found.sizes.most_common if one.images > 1)
        say()
        print_table("sizes", ("shorter side, px", "images", ""), bars)
        facts = {"median": f"{found.sizes.typical} px, of all images"}
        if common:
            facts["most common"] = common
        if found.training_size is not None:
            facts["trained at"] = f"{found.training_size.pixels} px: {found.training_size.reason}"
        print_facts("", facts)
    if found.findings:
        lines = [
            (f"{finding.count:,}", (finding.text, *_examples(finding.examples), f"→ {finding.consequence}"))
            for finding in sorted(found.findings, key=lambda finding: not finding.refuses)
        ]
        say()
        print_table("found", ("count", "what, and what is done"), lines)
    else:
        say()
        say("nothing odd was found")
    say()
    why = next((f": {finding.count:,} {finding.text}" for finding in found.findings if finding.refuses), "")
    say(f"{'usable' if found.is_usable else 'not usable'}{why}; looked at in {found.seconds:.1f} s")
