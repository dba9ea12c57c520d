"""The race: a few finalists of every kind, finetuned alike inside one measured limit, of which the best is delivered.

`config` is its section of a recipe; `entrant` says what takes part, `picking` which networks of a search do; `timing` measures
them together; `schedule` plans who trains how far, `halving` decides by what the trainings give, `record` is the result as
`race.json`, `agreement` how inherited scores ordered the networks. Nothing here trains: what does is handed in.
"""
