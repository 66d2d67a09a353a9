"""The kit, mutated: each check is taken away in turn, and a broken plugin must then pass unnoticed.

    python -m tests.conformance.mutation        (make mutation_kit)

Prints a table, and exits with status 1 if a check could be taken away unnoticed: nothing would show that it can fail.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mx_plugin.testing import BACKEND, METER, PROVIDER, ConformanceCheck, Suite, run_checks
from tests.conformance.broken.backends import BACKENDS
from tests.conformance.broken.casts import CASTS
from tests.conformance.broken.collection import Broken
from tests.conformance.broken.meters import METERS
from tests.conformance.broken.products import PRODUCTS
from tests.conformance.broken.providers import PROVIDERS

SUITES: dict[str, tuple[Suite, Sequence[Broken]]] = {
    "backend": (BACKEND, [*BACKENDS, *CASTS, *PRODUCTS]),
    "meter": (METER, METERS),
    "provider": (PROVIDER, PROVIDERS),
}


@dataclass(frozen=True)
class Mutant:
    """The kit without one check, and the broken plugins that it lets through."""

    kind: str
    removed: ConformanceCheck
    let_through: tuple[str, ...]


def failing(checks: Sequence[ConformanceCheck], broken: Broken) -> list[str]:
    """Ids of the checks that a broken plugin fails, in order."""
    return [outcome.check.id for outcome in run_checks(checks, broken.make) if outcome.status == "failed"]


def mutants(kind: str) -> list[Mutant]:
    """Every mutant of one suite, run against the plugins that the whole kit catches by that check alone."""
    suite, plugins = SUITES[kind]
    alone = [broken for broken in plugins if broken.alone]
    found = []
    for removed in suite.checks:
        rest = [check for check in suite.checks if check is not removed]
        candidates = [broken for broken in alone if broken.caught_by == removed.id]
        let_through = tuple(broken.name for broken in candidates if not failing(rest, broken))
        found.append(Mutant(kind, removed, let_through))
    return found


def main() -> int:
    every = [mutant for kind in SUITES for mutant in mutants(kind)]
    for mutant in every:
        told = ", ".join(mutant.let_through) or "NOTHING"
        print(f"{mutant.kind:<9} without {mutant.removed.id:<44} lets through {told}")
    needless = [mutant for mutant in every if not mutant.let_through]
    plugins = sum(len(plugins) for _, plugins in SUITES.values())
    print(f"{len(every)} checks, {plugins} broken plugins; {len(needless)} checks could be removed unnoticed")
    return 1 if needless else 0


if __name__ == "__main__":
    sys.exit(main())
