"""`autoformer recipe list | show | copy | explain`: the recipes that come with the program, and what their settings mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoformer.cli.help import Group
from autoformer.cli.options import Json

app = typer.Typer(
    cls=Group,
    help="The recipes that come with the program, and what their settings mean.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the recipes that come with the program, with what each is for and costs."""
    from autoformer.cli.chain.shipped import header, shipped
    from autoformer.cli.console import print_json, print_table

    found = {name: header(path) for name, path in shipped().items()}
    if json:
        print_json({name: {"what": said[""], **{key: said[key] for key in said if key}} for name, said in found.items()})
        return
    rows = [(name, said[""], said.get("cost", "")) for name, said in found.items()]
    print_table("recipes; autoformer run NAME --data FOLDER", ("name", "what for", "cost"), rows)


@app.command()
def show(name: Annotated[str, typer.Argument(help="Name of a recipe, or a path.")]) -> None:
    """Print a recipe as it is, comments included."""
    from autoformer.cli.chain.recipe import recipe_values
    from autoformer.cli.chain.shipped import found_recipe, text_of
    from autoformer.cli.console import say

    recipe_values(name)  # another file is no recipe
    for line in text_of(found_recipe(name)).splitlines():
        say(line)


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="Name of a recipe, or a path.")],
    out: Annotated[Path | None, typer.Argument(help="File to write; default NAME.yaml. It must not exist.")] = None,
) -> None:
    """Copy a recipe to change it.

    Example: autoformer recipe copy photos-pretrained mine.yaml
    """
    from autoformer.cli.chain.recipe import recipe_values
    from autoformer.cli.chain.shipped import found_recipe, text_of
    from autoformer.cli.console import note
    from autoformer.errors import OutputExistsError
    from autoformer.profiling.reports.page import write_text

    recipe_values(name)  # another file is no recipe
    source = found_recipe(name)
    place = out or Path(f"{source.stem}.yaml")
    if place.exists():
        raise OutputExistsError(f"{place} exists; give another file: autoformer recipe copy {name} FILE")
    write_text(text_of(source), place)
    note(f"{place}: change it and run it with: autoformer run {place} --data FOLDER")


@app.command()
def explain(
    key: Annotated[
        str | None, typer.Argument(help="A setting (train.mixup, or mixup), or a section (train). Default: every setting.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what a setting means, what it takes and what it is by default.

    Example: autoformer recipe explain train.mixup
    """
    from autoformer.cli.chain.explained import every_setting, explained
    from autoformer.cli.console import print_json, print_table

    found = list(every_setting()) if key is None else explained(key)
    if json:
        print_json([setting.to_dict() for setting in found])
        return
    rows = [(setting.key, setting.takes, setting.default or "–", setting.meaning) for setting in found]
    print_table("settings; --set KEY=VALUE, or in a recipe", ("setting", "takes", "default", "meaning"), rows)
