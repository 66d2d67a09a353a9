"""The kit, mutated: each check is taken away in turn, and a broken plugin must then pass unnoticed.

    python -m tests.conformance.mutation        (make mutation_kit)

Prints a table, and exits with status 1 if a check could be taken away unnoticed: nothing would show that it can fail.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mx_fpga.testing import BOARD
from mx_plugin.testing import BACKEND, METER, PROVIDER, ConformanceCheck, Suite, run_checks
from mx_trl.testing import BACKEND_TRAINING, METER_TRAINING, PROVIDER_TRAINING
from tests.conformance.broken import board_memory, board_products  # noqa: F401 - they fill BOARDS
from tests.conformance.broken.backends import BACKENDS
from tests.conformance.broken.boards import BOARDS
from tests.conformance.broken.casts import CASTS
from tests.conformance.broken.collection import Broken
from tests.conformance.broken.meters import METERS
from tests.conformance.broken.products import PRODUCTS
from tests.conformance.broken.providers import PROVIDERS
from tests.conformance.broken.training import TRAINED_BACKENDS, TRAINED_METERS, TRAINED_PROVIDERS


@dataclass(frozen=True)
class Held:
    """A suite, and the plugins that it must catch. ``below``: the kit's checks that come first, and pass."""

    suite: Suite
    plugins: Sequence[Broken]
    below: tuple[ConformanceCheck, ...] = ()

    @property
    def checks(self) -> tuple[ConformanceCheck, ...]:
        return (*self.below, *self.suite.checks)


SUITES = {
    "backend": Held(BACKEND, [*BACKENDS, *CASTS, *PRODUCTS]),
    "meter": Held(METER, METERS),
    "provider": Held(PROVIDER, PROVIDERS),
    "board": Held(BOARD, BOARDS),
    "backend, trl": Held(BACKEND_TRAINING, TRAINED_BACKENDS, BACKEND.checks),
    "meter, trl": Held(METER_TRAINING, TRAINED_METERS, METER.checks),
    "provider, trl": Held(PROVIDER_TRAINING, TRAINED_PROVIDERS, PROVIDER.checks),
}


@dataclass(frozen=True)
class Mutant:
    """The kit without one check, the broken plugins that it lets through, and what still catches others."""

    removed: ConformanceCheck
    let_through: tuple[str, ...]
    still_caught: tuple[str, ...]


def failing(checks: Sequence[ConformanceCheck], broken: Broken) -> list[str]:
    """Ids of the checks that a broken plugin fails, in order."""
    return [outcome.check.id for outcome in run_checks(checks, broken.make) if outcome.status == "failed"]


def mutants(kind: str) -> Iterator[Mutant]:
    """Every mutant of one suite, run against the plugins that the whole kit catches by that check alone."""
    held = SUITES[kind]
    alone = [broken for broken in held.plugins if broken.alone]
    for removed in held.suite.checks:
        rest = [check for check in held.checks if check is not removed]
        found = {broken.name: failing(rest, broken) for broken in alone if broken.caught_by == removed.id}
        let_through = tuple(name for name, failed in found.items() if not failed)
        still_caught = tuple(f"{name} by {failed[0]}" for name, failed in found.items() if failed)
        yield Mutant(removed, let_through, still_caught)


def main() -> int:
    every = []
    for kind in SUITES:
        for mutant in mutants(kind):
            every.append(mutant)
            told = ", ".join(mutant.let_through) or f"NOTHING {mutant.still_caught}"
            print(f"{mutant.removed.kind:<8} without {mutant.removed.id:<44} lets through {told}", flush=True)
    needless = [mutant for mutant in every if not mutant.let_through]
    plugins = sum(len(held.plugins) for held in SUITES.values())
    print(f"{len(every)} checks, {plugins} broken plugins; {len(needless)} checks could be removed unnoticed")
    return 1 if needless else 0


if __name__ == "__main__":
    sys.exit(main())
