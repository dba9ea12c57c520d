"""Reports: one page about a run (`run_page`), about several sources (`joint_page`) or of a comparison (`comparison_page`).

In: the folder of a run (`run_folder`), files of measurements, or a comparison. Out: a `Page` of `blocks` and `plots`, which
`page` writes as HTML, Markdown or JSON. One module per subject stands between them: search, preferences, budget, scores,
latency, latency_table, delivered. Commands import this room; no other room of profiling does.
"""
