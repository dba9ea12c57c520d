"""The whole chain of a recipe, from images to a report: `recipe` reads it, `chain` runs it.

`starting` opens what a training begins with, `helpers` are the processes that share a search or a race; `entrants` finds who may
start in a race, `race` runs one. No typer: `commands` turn words into a `Recipe`, this room runs it.
"""
