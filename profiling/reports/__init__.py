"""Reports: one page about a run, or about several runs and profiles.

In: a run folder (`run_folder`). Out: HTML, Markdown and JSON (`page`, `joint`). One module per subject between them.
"""
