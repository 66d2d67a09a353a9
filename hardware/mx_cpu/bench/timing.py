"""Alternated runs and their medians: what was slow for one was slow for all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One measured line. ``seconds``: median of one run; ``ratio``: to the baseline, larger is better.

    ``target`` and ``stretch`` are the project's own for a quiet machine with two cores and AVX512; None: none is set.
    """

    bench: str
    case: str
    what: str
    seconds: float
    ratio: float | None = None
    target: float | None = None
    stretch: float | None = None
    note: str = ""

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def medians(runs: Mapping[str, Run], budget: float = 1.0, least: int = 7) -> dict[str, float]:
    """Median seconds of each, run in turn until ``budget`` seconds for each of them are spent, ``least`` times."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    stop = time.perf_counter() + budget * len(runs)
    while time.perf_counter() < stop or min(map(len, taken.values())) < least:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def bandwidth(megabytes: int = 256) -> float:
    """Bytes a second of the best of ten streaming reads (a sum over int64) with the present threads."""
    data = torch.ones(megabytes << 17, dtype=torch.int64)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - start)
    return data.nbytes / best
