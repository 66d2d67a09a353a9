"""What memory is made of: terms, the instants at which they are alive together, and the peak of each phase."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

PHASES = ("rollout", "reward", "gradient", "other")


@dataclass(frozen=True)
class Term:
    """``bytes`` of one ``kind`` (weights FP16[float32], packed MXFP4, gradients, ...) that one ``role`` holds."""

    kind: str
    role: str
    bytes: int


@dataclass(frozen=True)
class Instant:
    """Terms that are alive at one moment of a phase, beside those that persist."""

    name: str
    phase: str
    terms: tuple[Term, ...]

    @property
    def bytes(self) -> int:
        return sum(term.bytes for term in self.terms)


@dataclass(frozen=True)
class Plan:
    """A run's memory: ``persistent`` terms stand through every instant; nothing is ever added up over instants."""

    persistent: tuple[Term, ...]
    instants: tuple[Instant, ...]
    notes: tuple[str, ...] = ()
    released: tuple[Term, ...] = field(default=())
    """Full-precision weights that are not there because only their packed copy is."""

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that this run has."""
        return tuple(phase for phase in PHASES if any(instant.phase == phase for instant in self.instants))

    def at(self, phase: str) -> Instant:
        """The instant at which ``phase`` needs most."""
        return max((instant for instant in self.instants if instant.phase == phase), key=lambda found: found.bytes)

    def terms(self, phase: str) -> tuple[Term, ...]:
        """Everything that is alive at the peak of ``phase``."""
        return merged([*self.persistent, *self.at(phase).terms])

    def peak(self, phase: str | None = None) -> int:
        """Bytes at the peak of ``phase``, or of the run."""
        if phase is None:
            return max(self.peak(each) for each in self.phases)
        return sum(term.bytes for term in self.persistent) + self.at(phase).bytes

    def of_roles(self, keep: Callable[[str], bool]) -> Plan:
        """What remains when the other roles lie elsewhere."""
        instants = tuple(
            Instant(each.name, each.phase, tuple(term for term in each.terms if keep(term.role)))
            for each in self.instants
        )
        return Plan(tuple(term for term in self.persistent if keep(term.role)), instants, self.notes)

    def describe(self) -> dict[str, Any]:
        """Plain data: by phase the peak, when it is, and what it is made of; all in bytes."""
        return {
            "peak": self.peak(),
            "phases": {
                phase: {
                    "peak": self.peak(phase),
                    "when": self.at(phase).name,
                    "terms": [vars(term) for term in self.terms(phase)],
                }
                for phase in self.phases
            },
            "released": [vars(term) for term in self.released],
            "notes": list(self.notes),
        }


def merged(terms: Iterable[Term]) -> tuple[Term, ...]:
    """One term for each kind and role, in the order of their first appearance; none of zero bytes."""
    sums: dict[tuple[str, str], int] = {}
    for term in terms:
        sums[term.kind, term.role] = sums.get((term.kind, term.role), 0) + term.bytes
    return tuple(Term(kind, role, size) for (kind, role), size in sums.items() if size)
