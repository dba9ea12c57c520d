"""Benchmark packages (kits): networks of a space that measure themselves on a target device (board), and what comes back.

In: a space. Out: a folder for the device (`writing`), its result (`result`), a latency table of it (`table`).
"""
