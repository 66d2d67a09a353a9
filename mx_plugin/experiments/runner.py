"""Runs what a plan holds and is not finished; what fails is reported, and the others go on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from .executor import Executor, Job, Outcome
from .folder import DONE, ResultsFolder
from .plan import PlannedRun
from .progress import ProgressLines, steps_done

TAIL_LINES = 15

MakeJob = Callable[[PlannedRun, Path], Job]
"""``(run, folder)``: the process that writes the run's files into the folder, ``done.json`` last."""


@dataclass(frozen=True)
class Failure:
    """A run that failed, with the end of its log."""

    run: PlannedRun
    status: int
    tail: str


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: running jobs are ended first. The exit status is 143."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_all(
    folder: ResultsFolder,
    runs: Sequence[PlannedRun],
    executor: Executor,
    make_job: MakeJob,
    progress: ProgressLines,
    finished: Callable[[PlannedRun], None] = lambda run: None,
) -> list[Failure]:
    """Make every run that is not done, in order. ``finished`` is called after each that succeeds.

    Raises:
        ExperimentError: the folder cannot be written.
    """
    by_name: dict[str, PlannedRun] = {}
    failures: list[Failure] = []

    def jobs() -> Iterator[Job]:
        for run in runs:
            job = begin(run)
            by_name[job.name] = run
            yield job

    def begin(run: PlannedRun) -> Job:
        return replace(make_job(run, folder.begin(run)), again=lambda: begin(run))

    def watch(running: Sequence[tuple[Job, float]]) -> None:
        progress.running([(job.name, s, steps_done(folder.part(by_name[job.name]))) for job, s in running])

    with closing(_closable(executor.execute(jobs(), watch))) as outcomes:
        for outcome in outcomes:
            run = by_name[outcome.job.name]
            failure = _settle(folder, run, outcome, progress)
            if failure is None:
                finished(run)
            else:
                failures.append(failure)
    return failures


def _closable(outcomes: Iterator[Outcome]) -> Any:
    """A generator is closed when its reader is interrupted; any other iterator has nothing to close."""
    if hasattr(outcomes, "close"):
        return outcomes
    return (outcome for outcome in outcomes)


def _settle(folder: ResultsFolder, run: PlannedRun, outcome: Outcome, progress: ProgressLines) -> Failure | None:
    if outcome.status == 0:
        path = folder.finish(run)
        record = json.loads((path / DONE).read_text(encoding="utf-8"))
        progress.finished(str(run), outcome.seconds, record.get("summary") or f"{record['steps']} steps")
        return None
    tail = "\n".join(tail_of(outcome.job.log))
    progress.failed(str(run), outcome.seconds, f"{_status(outcome.status)}; the end of {outcome.job.log}:\n{tail}")
    return Failure(run, outcome.status, tail)


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"


def tail_of(file: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log, indented; whatever bytes it holds."""
    try:
        text = file.read_bytes()[-20_000:].decode("utf-8", "replace")
    except OSError as error:
        return [f"    ({error})"]
    # A progress bar redraws one line: what it last showed is enough.
    shown = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [f"    {line}" for line in shown if line][-lines:]
