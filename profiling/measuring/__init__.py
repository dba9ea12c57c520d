"""How one thing is timed honestly, and under which conditions.

In: a `LatencyBackend`. Out: a `Measurement`: raw samples, statistics with intervals, the conditions and a verdict. All of it
runs on boards: the standard library alone is imported at the top of each module.
"""
