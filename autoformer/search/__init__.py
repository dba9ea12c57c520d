"""The search: which subnet of a supernet is best inside a budget.

In: a supernet, the search part of the images, a `Goal` (`config`). Out: a `SearchRecord` (`record`) and the database that it
resumes from. `loop` is the search, as large as `sizing` plans; `methods` breed and pick (with `pareto`), from what blocks are
worth where some may lack parts (`benefit`); `baselines` stand beside, `finalists` are scored last; `evaluations` score on
growing shares (`rungs`); `database` remembers, also for later searches of the same supernet, in a `storage`, as `trials` that
Optuna's plots read; `candidate` and `result` hold and choose, `answer` serves another budget. `space_table` shows a budget's
share of the space, `audit` whether a supernet is worth searching.
"""
