"""The recipes that come with the program, by their names: `quickstart` instead of a path."""

from __future__ import annotations

import difflib
from pathlib import Path

import autoformer
from autoformer.errors import RecipeError, short

FOLDER = Path(autoformer.__file__).parent / "recipes"


def shipped() -> dict[str, Path]:
    """Every recipe that comes with the program, in the order of the names."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def found_recipe(words: str) -> Path:
    """The file that a person means by a path, or by the name of a shipped recipe.

    A file of that path counts first. Raises `RecipeError` naming the recipes there are.
    """
    path, known = Path(words), shipped()
    if (words and path.is_file()) or path.suffix in (".yaml", ".yml"):
        named = known.get(path.stem) if path.parts[:-1] == ("recipes",) and not path.exists() else None
        return named or path  # `recipes/quickstart.yaml` is what the documents say, wherever one stands
    if words in known:
        return known[words]
    if words and path.is_dir():
        raise RecipeError(
            f"{short(words, 80)} is a folder, not a recipe; to run its images: autoformer run --data {short(words, 80)}"
        )
    near = difflib.get_close_matches(words[:80], known, 1, 0.5)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise RecipeError(f"no recipe {short(words, 80)!r}: there is no such file, and shipped are {', '.join(known)}{meant}")


def text_of(path: Path) -> str:
    """A recipe as it is written. Raises `RecipeError` when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {short(error)}; give the path of a YAML file") from error


def header(path: Path) -> dict[str, str]:
    """What a recipe says of itself at its head: the first sentence by "", then by the first word of each line beneath.

    Lines that go on where another stopped belong to that one.
    """
    lines = [line.removeprefix("#").rstrip() for line in text_of(path).split("\ndata:")[0].splitlines()]
    found: dict[str, str] = {"": ""}
    key = ""
    for line in lines:
        word, _, rest = line.strip().partition("  ")
        if line.startswith(" ") and rest and word.isalpha():
            key = word
            found[key] = rest.strip()
        elif line.strip():
            found[key] = f"{found[key]} {line.strip()}".strip()
    return found
