"""Who runs the processes of an experiment: a protocol small enough for any machine, and this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .errors import ExperimentError

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Job:
    """One process: what to call, with what in its environment beside this process's, and where its output goes.

    ``again`` makes the job anew, with empty folders, for an executor that lost the machine it ran on.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    again: Callable[[], Job] | None = None


@dataclass(frozen=True)
class Outcome:
    """A job that has ended. ``status`` is its exit status; negative: the signal that ended it."""

    job: Job
    status: int
    seconds: float


Watch = Callable[[Sequence[tuple[Job, float]]], None]
"""Told now and then which jobs run, and for how many seconds each."""


class Executor(Protocol):
    """Runs jobs. Takes the next one when it has room for it, so that whoever makes them can prepare it then."""

    def execute(self, jobs: Iterable[Job], watch: Watch) -> Iterator[Outcome]:
        """Each job's outcome, as it ends. Closing the iterator ends those that run."""
        ...


class LocalExecutor:
    """Runs ``slots`` processes at a time on this machine.

    A job's standard input is a pipe that is never written to: it ends when this process does, however that
    ends, so a job that watches it (``mx_plugin.experiments.child``) never outlives the experiment.
    """

    def __init__(self, slots: int = 1) -> None:
        if slots < 1:
            raise ExperimentError(f"{slots} jobs at a time: give 1 or more")
        self.slots = slots

    def execute(self, jobs: Iterable[Job], watch: Watch) -> Iterator[Outcome]:
        """See :class:`Executor`."""
        waiting = iter(jobs)
        running: list[tuple[Job, subprocess.Popen[bytes], float]] = []
        exhausted = False
        try:
            while True:
                while not exhausted and len(running) < self.slots:
                    job = next(waiting, None)
                    if job is None:
                        exhausted = True
                        break
                    running.append((job, _start(job), time.monotonic()))
                if not running:
                    return
                time.sleep(_POLL_SECONDS)
                now = time.monotonic()
                watch([(job, now - began) for job, _, began in running])
                for entry in [entry for entry in running if entry[1].poll() is not None]:
                    running.remove(entry)
                    job, process, began = entry
                    _close(process)
                    yield Outcome(job, process.returncode, now - began)
        finally:
            _end([process for _, process, _ in running])


def _start(job: Job) -> subprocess.Popen[bytes]:
    with job.log.open("ab") as log:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the others in order.
        return subprocess.Popen(
            list(job.command),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **job.environment},
            start_new_session=True,
        )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()
        _close(process)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
