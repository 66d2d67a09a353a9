"""The executor on Ray: one task for each run, placed by Ray's own scheduler; a run whose worker dies is made again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mx_plugin.experiments.executor import Job, Outcome, Watch

from ..errors import StageError

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a run is started at most before its machine's deaths count as its own failure."""

LOST = -int(signal.SIGKILL)
"""The status of a run whose workers all died."""

_POLL_SECONDS = 0.2


@dataclass
class _Running:
    job: Job
    task: Any
    began: float
    attempts: int = 1


class RayExecutor:
    """Runs jobs as tasks of a Ray cluster. Entering it joins or starts the cluster, leaving it lets go of it.

    A job's files go where they would go locally: the results folder must be on a disk that all machines share, and
    this Python, at the same path, on all of them.

    Args:
        cpus, gpus: what a run takes of its machine, in Ray's logical resources.
        slots: runs that are given to Ray at a time; None: as many as the cluster has room for.
        address: of a running cluster (``auto``, ``host:6379``); None: ``RAY_ADDRESS``, else one on this machine for as
            long as the experiment lasts.

    Raises:
        StageError: Ray is not installed, no cluster answers, or no machine can hold a run.
    """

    def __init__(self, cpus: float, gpus: float = 0.0, slots: int | None = None, address: str | None = None) -> None:
        self._ray = _import_ray()
        self._resources = {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {})}
        self._start(address)
        try:
            room = self._room()
        except StageError:
            self._ray.shutdown()
            raise
        self.slots = room if slots is None else slots
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        self._execute = self._ray.remote(**options)(execute_here)

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def _start(self, address: str | None) -> None:
        try:
            self._ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise StageError(
                f"--executor ray: no Ray cluster at {address or os.environ.get('RAY_ADDRESS') or 'this machine'}: "
                f"{error}; start one by `ray start --head`, or leave --ray_address out"
            ) from error

    def _room(self) -> int:
        """Runs that fit the cluster's machines side by side."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = sum(
            int(min(machine.get(name, 0.0) // need for name, need in self._resources.items())) for machine in machines
        )
        if not room:
            have = "; ".join(str({name: m.get(name, 0.0) for name in self._resources}) for m in machines)
            raise StageError(
                f"--executor ray: a run takes {self._resources}, and no machine of the cluster has that ({have}): "
                "lower --threads or --gpus_per_run"
            )
        return room

    def execute(self, jobs: Iterable[Job], watch: Watch) -> Iterator[Outcome]:
        """See :class:`~mx_plugin.experiments.executor.Executor`."""
        waiting = iter(jobs)
        running: list[_Running] = []
        try:
            while True:
                while len(running) < self.slots and (job := next(waiting, None)) is not None:
                    running.append(_Running(job, self._submit(job), time.monotonic()))
                if not running:
                    return
                ready, _ = self._ray.wait([entry.task for entry in running], timeout=_POLL_SECONDS)
                now = time.monotonic()
                watch([(entry.job, now - entry.began) for entry in running])
                for entry in [entry for entry in running if entry.task in ready]:
                    # Before its status is asked for: a task that has just ended must not be cancelled any more, Ray
                    # 2.55 may then end this process ("Tried to complete task that was not pending").
                    running.remove(entry)
                    status = self._status(entry)
                    if status is None:
                        running.append(entry)
                    else:
                        yield Outcome(entry.job, status, now - entry.began)
        finally:
            for entry in running:
                self._ray.cancel(entry.task, force=True)

    def _submit(self, job: Job) -> Any:
        return self._execute.remote(list(job.command), str(job.log), dict(job.environment))

    def _status(self, entry: _Running) -> int | None:
        """The exit status; None where the run's worker was lost and another has it now."""
        try:
            return int(self._ray.get(entry.task))
        except self._ray.exceptions.RayTaskError as error:
            raise StageError(f"{entry.job.name} could not be started on its machine: {error.cause}") from error
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            if entry.attempts >= ATTEMPTS or entry.job.again is None:
                log.error("%s: its worker was lost (%s), %d times in all", entry.job.name, reason, entry.attempts)
                return LOST
        log.warning(
            "%s: its worker was lost (%s); made again, %d of %d", entry.job.name, reason, entry.attempts + 1, ATTEMPTS
        )
        entry.job, entry.attempts = entry.job.again(), entry.attempts + 1
        entry.task, entry.began = self._submit(entry.job), time.monotonic()
        return None


def execute_here(command: Sequence[str], log_file: str, environment: Mapping[str, str]) -> int:
    """Run a job's process on the machine that Ray chose; its exit status. The process ends with this one.

    Raises:
        FileNotFoundError: this machine does not see the results folder.
    """
    folder = Path(log_file).parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{os.uname().nodename} has no {folder}: put --output on a disk that all machines share"
        )
    with open(log_file, "ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray 2.55 still asks before it leaves the devices of tasks without GPUs alone; told, it does not warn.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise StageError("--executor ray needs Ray, which is not installed: pip install 'mx-plugin[ray]'") from error
    return ray
