"""Spearman's rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation of ranks, ties sharing their mean rank (Spearman, 1904); infinities rank last.

    None for fewer than three values, or where one side is all alike.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values against {len(second)}")
    a, b = _ranks(first), _ranks(second)
    if len(a) < 3:
        return None
    mean = (len(a) + 1) / 2
    spread_a = sum((x - mean) ** 2 for x in a)
    spread_b = sum((y - mean) ** 2 for y in b)
    if spread_a == 0 or spread_b == 0:
        return None
    return sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True)) / math.sqrt(spread_a * spread_b)


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for position in order[start : end + 1]:
            ranks[position] = (start + end) / 2 + 1
        start = end + 1
    return ranks
