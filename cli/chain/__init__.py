"""The whole chain of a recipe, from images to a report: `recipe` reads it, `chain` runs it, step by step (`steps`).

`asked` is what the command line asks of a run: `shipped` finds recipes by name, `choosing_recipe` the one that suits the images,
`begun_from` says what follows from a pretrained start; `explained` tells what a setting means, `price` what a run will take.
`starting` opens what a training begins with, `parent` finetunes the pretrained network of a run first, `helpers` are the
processes that share a step (`helped`: whom one helps), `entrants` finds and measures who starts in a race,
`legs` trains them, `race` runs one in a folder, `places` counts beforehand how many can start. `limits` puts limits into words,
`measured_again` times the files.
No typer: `commands` turn words into a `Recipe`, this room runs it.
"""
