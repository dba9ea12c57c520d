"""Search-to-edge toolchain for vision transformers: one supernet, a budget, a proved network on the device.

Importing this package imports nothing heavy; take what you need from its modules by name::

    from autoformer.networks.supernet import Supernet
    from autoformer.space import SearchSpace

At the door: `architecture` (the value that travels), `space` (sampling, mutation, crossover) with its `choices`, `cost` (counts,
limits), `conditions` (what a latency means), `metric` (scores, intervals, comparisons), `evaluate` (a network on images),
`parsing` (words become values), `files`, `tensors`, `records` (JSON) and `temporary` (folders that go with their process) for
what is on disk, `file_kinds` (what lies in the place of a file), `escaping` (texts of others,
shown), `settings`, `errors`, `progress` and `versions` for everybody.
"""

__version__ = "0.1.0"
