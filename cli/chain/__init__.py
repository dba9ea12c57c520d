"""The whole chain of a recipe, from images to a report: `recipe` reads it, `choosing_recipe` says which suits a data set, `chain`
runs it.

`shipped` finds the recipes that come with the program, `explained` tells what a setting means, `price` what a run will take.
`starting` opens what a training begins with, `parent` finetunes the pretrained network of a run first, `helpers` are the
processes that share a step, `entrants` finds and measures who starts in a race, `legs` trains them, `race` runs one in a folder.
No typer: `commands` turn words into a `Recipe`, this room runs it.
"""
