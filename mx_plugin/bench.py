"""What a bench is: runs alternated in one process, their medians, and rows of one table.

``mx-plugin bench`` prints the rows of every bench that a plugin registered (``mx_register_benches``). Alternating
is the point: what was slow for one run was slow for all, so that ratios hold where seconds do not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from .errors import MXError

Run = Callable[[], object]
"""One measured run; what it returns is thrown away."""


class BenchUnavailable(MXError, RuntimeError):
    """A bench that cannot run here: what is missing, and how to install it."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ``seconds``: median of one run. ``ratio``: how many times faster than the baseline of its ``case``, so larger is
    better; None for a line that is compared with nothing. ``target`` and ``stretch`` are ratios, ``at_most`` is
    seconds: the project's own, for a quiet machine with two cores and AVX512 or for one H200; None where none is set.
    """

    bench: str
    case: str
    what: str
    seconds: float
    ratio: float | None = None
    target: float | None = None
    stretch: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether every target that is set was met; None when none is."""
        verdicts = []
        if self.target is not None and self.ratio is not None:
            verdicts.append(self.ratio >= self.target)
        if self.at_most is not None:
            verdicts.append(self.seconds <= self.at_most)
        return all(verdicts) if verdicts else None

    def plain(self) -> dict[str, object]:
        """For JSON: the fields, and ``met``."""
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True)
class Effort:
    """How long to measure each line, and by which clock.

    Args:
        budget: seconds for each line.
        clock: ``time.perf_counter``; or, on a machine that others keep busy, ``time.thread_time``: the processor
            seconds of the calling thread, which mean something with one thread only.
        settle: waits until the device has done all that it was given; called before each reading of the clock.
            None for a CPU, which is done when a call returns.
    """

    budget: float = 1.0
    clock: Callable[[], float] = time.perf_counter
    settle: Callable[[], object] | None = None

    def medians(self, runs: Mapping[str, Run], least: int = 7) -> dict[str, float]:
        """Median seconds of each run, all in turn until ``budget`` is spent for each, ``least`` times at any rate.

        Each runs once unmeasured before: first calls allocate, pack and compile.
        """
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        stop = time.perf_counter() + self.budget * len(runs)
        rounds = 0
        while rounds < least or time.perf_counter() < stop:
            for name, run in runs.items():
                taken[name].append(self.seconds(run))
            rounds += 1
        return {name: statistics.median(times) for name, times in taken.items()}

    def seconds(self, run: Run) -> float:
        """What one run takes; of one that replays others (see ``Bench.replayed``), one of its calls."""
        start = self.settled_clock()
        run()
        return (self.settled_clock() - start) / float(getattr(run, "calls", 1))

    def settled_clock(self) -> float:
        """The clock, read once the device is done."""
        if self.settle is not None:
            self.settle()
        return self.clock()


def _as_it_is(run: Run) -> Run:
    return run


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


@dataclass
class Bench:
    """What a bench is handed.

    Args:
        arguments: the command line, with whatever the bench's own ``add_arguments`` asked for.
        backend: name of the backend to measure.
        effort: how long, by which clock.
        read_bytes_per_s: what a streaming read of the memory reaches: the limit of all that reads weights.
        rotated_bytes: equal operands, used in turn, should add up to this: more than the caches hold.
        report: shows a note as it comes.
        device: where tensors are made, as torch names it.
        replayed: makes a run of kernels alone of one that may be called again and again, for a device whose kernels
            take less time than Python needs to start them: the run it returns says in ``calls`` how many calls of the
            given one it replays. As it is on a CPU.
    """

    arguments: argparse.Namespace = field(default_factory=argparse.Namespace)
    backend: str = "cpu"
    effort: Effort = field(default_factory=Effort)
    read_bytes_per_s: float = float("nan")
    rotated_bytes: int = 64 << 20
    report: Callable[[str], None] = _to_stderr
    notes: list[str] = field(default_factory=list)
    device: str = "cpu"
    replayed: Callable[[Run], Run] = _as_it_is

    def note(self, text: str) -> None:
        """Say something that is not a row: what was left out and why, how long packing took."""
        self.notes.append(text)
        self.report(text)


Rows = Callable[[Bench], Iterator[Row]]
"""A bench: yields its rows as they are measured.

Raises:
    BenchUnavailable: it cannot run here. ``mx-plugin bench`` notes that, and fails if the bench was asked for by name.
"""
