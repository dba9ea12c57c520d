"""The whole chain of a recipe: from images to a report.

No typer: `commands` turn words into a `Recipe`, this room runs it.
"""
