"""Nondominated sorting and crowding, as NSGA-II has them (Deb et al. 2002, sections III.A and III.B).

Rows of `values` [n, m] are candidates, columns are objectives, and less is better in every one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nondominated_ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """0 for rows that no other row dominates, 1 for rows that only those of rank 0 dominate, and so on, [n]. n² work.

    A row dominates another that is nowhere less and somewhere more; equal rows do not dominate each other.
    """
    count = len(values)
    nowhere_more, somewhere_less = np.ones((count, count), bool), np.zeros((count, count), bool)
    for column in values.T:  # one at a time: [n, n, m] would be large
        nowhere_more &= column[:, None] <= column[None, :]
        somewhere_less |= column[:, None] < column[None, :]
    dominates = nowhere_more & somewhere_less  # [by, whom]
    left = dominates.sum(axis=0)  # by how many of those without a rank
    ranks, rank = np.full(count, -1), 0
    while (ranks < 0).any():
        here = (ranks < 0) & (left == 0)
        ranks[here] = rank
        left = left - dominates[here].sum(axis=0)
        rank += 1
    return ranks.astype(np.int64)


def crowding(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each row's neighbours are, summed over the objectives, each relative to its range, [n].

    Rows at either end of an objective are infinitely far from others. An objective that is the same for all counts nothing.
    """
    found = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        reach = ordered[-1] - ordered[0]
        if reach == 0:
            continue
        found[order[[0, -1]]] = np.inf
        found[order[1:-1]] += (ordered[2:] - ordered[:-2]) / reach
    return found
