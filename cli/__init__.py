"""Words on the command line become one call and one answer.

`app` is the program and the one place where errors become a line, `help` what `-h` shows; `commands`, `profile_commands`,
`chain` and `board` are its rooms, `recipe_commands` the group `recipe`. `options` are shared by commands, `flags` answers those
of other programs and `meant` their commands, `device` is `--device`, `class_order` is `--classes`, `words` and `networks` turn
what was given into values, `facts` and `known_files` are what `describe` tells, `answer` what `run` ends with, `judged_images`
are those that a network is judged on, `console` prints, and `progress_display` shows how far the work is.
"""
