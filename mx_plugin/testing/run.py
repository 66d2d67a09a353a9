"""Runs checks without pytest: what ``mx-plugin conformance`` does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .check import ConformanceCheck, Make, Suite
from .fault import Fault, NotApplicable

PASSED, FAILED, SKIPPED = "passed", "failed", "does not apply"


@dataclass(frozen=True)
class Outcome:
    """What came of one check. ``message``: the fault, or why the check does not apply; empty where it passed."""

    check: ConformanceCheck
    status: str
    message: str
    seconds: float


def run_checks(
    checks: Iterable[ConformanceCheck], make: Make, options: Mapping[str, Any] | None = None
) -> Iterator[Outcome]:
    """One outcome after the other. A check that fails stops none of the others: each makes a plugin of its own."""
    for check in checks:
        started = time.perf_counter()
        status, message = PASSED, ""
        try:
            check.run(make, options)
        except Fault as fault:
            status, message = FAILED, str(fault)
        except NotApplicable as why:
            status, message = SKIPPED, str(why)
        yield Outcome(check, status, message, time.perf_counter() - started)


def conforms(suite: Suite, make: Make, options: Mapping[str, Any] | None = None) -> list[Outcome]:
    """Outcomes of every check of a suite."""
    return list(run_checks(suite.checks, make, options))
