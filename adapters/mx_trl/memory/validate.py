"""``--validate``: the planned run for a few steps in a fresh process; predicted beside measured, phase by phase.

Measured is what the process's resident memory reaches in a phase (``VmHWM``, reset at every change of phase) above what
was resident after imports. glibc's allocator is told to give every block of 64 KiB and more back to the system when it
is freed (``MALLOC_MMAP_THRESHOLD_``), and to use one arena: otherwise freed memory stays resident, as much as the run's
history happens to leave, and no formula of live tensors could say how much.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import StageError
from .planner import plan
from .request import Request

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
}
"""glibc's settings for the measured process (mallopt(3))."""

MB = 1e6


@dataclass(frozen=True)
class Compared:
    """One phase: bytes at its peak, ``predicted`` by the plan and ``measured``."""

    phase: str
    predicted: int
    measured: int

    @property
    def error(self) -> float:
        """Predicted over measured, minus one."""
        return self.predicted / self.measured - 1


def validate(request: Request, steps: int, as_json: bool) -> int:
    """Measure, print, and return 0; 1 when a phase is off by more than 10%.

    Raises:
        StageError: the run failed; the message ends with what it said last.
    """
    found = compare(request, steps)
    if as_json:
        rows = [{**asdict(each), "error": each.error} for each in found]
        print(json.dumps({"request": request.options(), "steps": steps, "phases": rows}, indent=2))
    else:
        print(f"{'phase':<10} {'predicted MB':>14} {'measured MB':>14} {'error':>8}")
        for each in found:
            print(
                f"{each.phase:<10} {each.predicted / MB:>14,.1f} {each.measured / MB:>14,.1f} {each.error:>+8.1%}",
            )
    return int(any(abs(each.error) > 0.1 for each in found))


def compare(request: Request, steps: int = 2) -> list[Compared]:
    """Plan and measure; the phases that both have.

    Raises:
        StageError: as :func:`validate`.
    """
    predicted = plan(request)
    measured = measure(request, steps)
    return [Compared(phase, predicted.peak(phase), measured[phase]) for phase in predicted.phases if phase in measured]


def measure(request: Request, steps: int = 2, environment: Mapping[str, str] | None = None) -> dict[str, int]:
    """Peak by phase of ``steps`` real steps, in bytes above what was resident after imports; in a process of its own.

    Raises:
        StageError: the process failed.
    """
    told = {"request": request.options(), "steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "mx_trl.memory.worker", folder],
            input=json.dumps(told),
            capture_output=True,
            text=True,
            env={**os.environ, **ALLOCATOR, **(environment or {})},
            check=False,
        )
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise StageError(f"--validate: the run of {request.stage} on {request.model} failed:\n{last}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {phase: int(size) for phase, size in answer.items()}
