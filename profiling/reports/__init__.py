"""Reports: one page about a run (`run_page`), several sources (`joint`, `joint_page`) or a comparison.

In: a run's folder (`run_folder`), measurements, or a comparison. Out: a `Page` of `blocks`, written by `page` as
HTML, Markdown or JSON; `content` is report.json. Between them one module per subject: `budget` (every limit, latency too, and
whether it is kept), `latency` (times, trust, layers), `latency_table` (its fit, and what was measured after a search),
`search`, `preferences` (of the front), `race` (who took part, how it ended), `scores`, `delivered` (files, machine, boards).
`judged` is class by class, and the page of `evaluate`. `comparison_page` (with `comparison_figure`) is of `compare` and `profile
compare`. `wording` puts numbers into words.
"""
