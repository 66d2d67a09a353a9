"""Other assignments of the same formats to the same layers, at equal packed bytes: random, and inverted."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ExperimentError

TOLERANCE = 0.005
"""Packed bytes may differ by this share of the total; what was reached is written to the plan."""

_ATTEMPTS, _REPAIRS, _SAMPLED_SWAPS = 200, 400, 2000


@dataclass(frozen=True)
class Slots:
    """Layers of one phase and role. ``bytes_of[layer][format]``: packed bytes; ``now[layer]``: the format's index."""

    bytes_of: Sequence[Sequence[int]]
    now: Sequence[int]

    def total(self, chosen: Sequence[int]) -> int:
        """Packed bytes of an assignment."""
        return sum(sizes[fmt] for sizes, fmt in zip(self.bytes_of, chosen, strict=True))

    @property
    def target(self) -> int:
        return self.total(self.now)

    def close(self, chosen: Sequence[int], tolerance: float) -> bool:
        """Whether an assignment's bytes are those of ``now``, within the tolerance."""
        return abs(self.total(chosen) - self.target) <= tolerance * self.target


def random_assignment(slots: Slots, seed: int, tolerance: float = TOLERANCE) -> list[int]:
    """The formats of ``now``, each as often, dealt anew: a random permutation whose bytes are then set right by the
    swaps that bring them nearest.

    Raises:
        ExperimentError: no other assignment has these bytes.
    """
    rng = random.Random(seed)
    for _ in range(_ATTEMPTS):
        chosen = list(slots.now)
        rng.shuffle(chosen)
        _repair_by_swaps(slots, chosen, rng, tolerance)
        if slots.close(chosen, tolerance) and chosen != list(slots.now):
            return chosen
    chosen = _within_equal_sizes(slots, rng)
    if chosen == list(slots.now):
        raise ExperimentError(
            f"no other assignment of these formats to these {len(slots.now)} layers has the same bytes within "
            f"{tolerance:.1%}"
        )
    return chosen


def inverted_assignment(slots: Slots, sensitivity: Sequence[Any], tolerance: float = TOLERANCE) -> list[int]:
    """The narrow formats to the sensitive layers, the wide ones to the others.

    Begins with the formats of ``now`` in reverse order of sensitivity, then changes or swaps as few as it takes to
    reach the bytes, choosing the changes that keep most of that order.

    Args:
        sensitivity: of each layer, anything that has an order; only its order counts.

    Raises:
        ExperimentError: the bytes cannot be reached.
    """
    count = len(slots.now)
    most_first = sorted(range(count), key=lambda i: sensitivity[i], reverse=True)
    rank = {layer: count - place for place, layer in enumerate(most_first)}
    widths = _widths(slots)
    chosen = [0] * count
    for layer, fmt in zip(most_first, sorted(slots.now, key=widths.__getitem__), strict=True):
        chosen[layer] = fmt
    allowed = tolerance * slots.target
    off = slots.total(chosen) - slots.target
    while abs(off) > allowed:

        def cost(move: _Move, off: int = off) -> tuple[float, int]:
            """First the bytes that are still off, then how much width the sensitive layers get."""
            still = abs(off + sum(slots.bytes_of[x][fmt] - slots.bytes_of[x][chosen[x]] for x, fmt in move))
            return max(still - allowed, 0.0), sum(rank[x] * (widths[fmt] - widths[chosen[x]]) for x, fmt in move)

        best = min(_moves(slots, chosen), key=cost)
        if cost(best)[0] >= abs(off) - allowed:
            raise ExperimentError(
                f"inverted formats come no nearer to the same bytes than {off / slots.target:+.1%}; equal means "
                f"{tolerance:.1%}"
            )
        for layer, fmt in best:
            chosen[layer] = fmt
        off = slots.total(chosen) - slots.target
    if chosen == list(slots.now):
        raise ExperimentError("inverting these formats changes nothing")
    return chosen


_Move = tuple[tuple[int, int], ...]
"""(layer, its new format), of one layer or of two that swap."""


def _widths(slots: Slots) -> list[int]:
    """Of each format, its bytes over all layers: orders formats by width."""
    return [sum(sizes[fmt] for sizes in slots.bytes_of) for fmt in range(len(slots.bytes_of[0]))]


def _moves(slots: Slots, chosen: Sequence[int]) -> Iterator[_Move]:
    """One layer in another of the formats, or two layers' formats swapped."""
    used = sorted(set(slots.now))
    for i, mine in enumerate(chosen):
        yield from (((i, fmt),) for fmt in used if fmt != mine)
        yield from (((i, chosen[j]), (j, mine)) for j in range(i + 1, len(chosen)) if chosen[j] != mine)


def _repair_by_swaps(slots: Slots, chosen: list[int], rng: random.Random, tolerance: float) -> None:
    off = slots.total(chosen) - slots.target
    for _ in range(_REPAIRS):
        if abs(off) <= tolerance * slots.target:
            return
        best, best_change = None, 0
        for _ in range(_SAMPLED_SWAPS):
            i, j = rng.randrange(len(chosen)), rng.randrange(len(chosen))
            change = (
                slots.bytes_of[i][chosen[j]]
                + slots.bytes_of[j][chosen[i]]
                - slots.bytes_of[i][chosen[i]]
                - slots.bytes_of[j][chosen[j]]
            )
            if i != j and abs(off + change) < abs(off + best_change):
                best, best_change = (i, j), change
        if best is None:
            return
        i, j = best
        chosen[i], chosen[j] = chosen[j], chosen[i]
        off += best_change


def _within_equal_sizes(slots: Slots, rng: random.Random) -> list[int]:
    """Permuted among layers of equal sizes alone: exactly the same bytes."""
    chosen = list(slots.now)
    groups: dict[tuple[int, ...], list[int]] = {}
    for layer, sizes in enumerate(slots.bytes_of):
        groups.setdefault(tuple(sizes), []).append(layer)
    for _ in range(_ATTEMPTS):
        for layers in groups.values():
            formats = [slots.now[layer] for layer in layers]
            rng.shuffle(formats)
            for layer, fmt in zip(layers, formats, strict=True):
                chosen[layer] = fmt
        if chosen != list(slots.now):
            break
    return chosen
