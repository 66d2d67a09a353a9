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


@dataclass(frozen=True)
class Effort:
    """How long to measure each line, and by which clock.

    ``clock``: ``time.perf_counter``; or, on a machine that others keep busy, ``time.thread_time``: the processor
    seconds of the calling thread, which mean something with one thread only.
    """

    budget: float = 1.0
    clock: Callable[[], float] = time.perf_counter


def medians(runs: Mapping[str, Run], effort: Effort, least: int = 7) -> dict[str, float]:
    """Median seconds of each, run in turn until ``budget`` seconds for each of them are spent, ``least`` times."""
    clock = effort.clock
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    stop = time.perf_counter() + effort.budget * len(runs)
    while time.perf_counter() < stop or min(map(len, taken.values())) < least:
        for name, run in runs.items():
            start = clock()
            run()
            taken[name].append(clock() - start)
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
