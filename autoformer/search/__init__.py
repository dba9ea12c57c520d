"""The search: which subnet of a supernet is best inside a budget.

In: a supernet, the search part of the images, costs and a budget. Out: a `SearchResult` and the database that it can be resumed
and answered from. `loop` is the search, `methods` propose, `evaluations` score, `database` remembers, `result` and `answer`
choose.
"""
