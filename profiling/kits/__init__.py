"""Benchmark packages (kits): networks of a space that measure themselves on a target device (board), and what comes back.

`kit` is the manifest, `writing` makes the folder; `measuring`, `rows` and `runtimes` run on the device; `result` is what comes
back, `table` makes a latency table of it, `board_results` takes in what a bundle's program found.
"""
