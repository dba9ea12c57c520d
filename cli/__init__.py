"""Words on the command line become one call and one answer.

`app` is the program and the one place where errors become a line; `commands`, `profile_commands`, `chain` and `board` are its
rooms. `options` are shared by commands, `class_order` is `--classes`, `words` and `networks` turn what was given into values,
`judged_images` are those that a network is judged on, `console` prints.
"""
