"""Latency tables: from a few measured networks to the latency of any architecture, and the loop that answers a limit.

`design` picks the networks, `measuring` measures them, `formulas` (over `loads` and a `prior`) are fitted, `errors`
cross-validates, `table` is the result, `costs` prices a search with it. `loop` measures finalists and chooses again, `timed` with
the machine's `speed_factor`, and with `correction`; `limit` is its answer.
"""
