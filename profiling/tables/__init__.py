"""Latency tables: from a few measured networks to the latency of any architecture, and the loop that answers a latency limit.

In: a space and a backend. Out: a `LatencyTable`, costs for a search (`costs`), and a `LatencyAnswer` (`loop`, `limit`).
"""
