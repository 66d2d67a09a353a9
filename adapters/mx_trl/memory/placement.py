"""Whole models placed over devices or hosts: who stands where, and each device's peak."""

from __future__ import annotations

from dataclasses import dataclass

from .terms import Plan


@dataclass(frozen=True)
class Device:
    """``peak`` in bytes of the ``roles`` that stand there; every device has the runtime's own memory."""

    roles: tuple[str, ...]
    peak: int


def place(plan: Plan, devices: int) -> list[Device]:
    """Roles over ``devices``, the largest first, each where least is: tensors of a pass are its model's.

    A greedy choice (longest processing time first, Graham 1969), not a search: there are four roles at most.
    """
    if devices == 1:
        return [Device(_roles(plan), plan.peak())]
    alone = {role: _peak(plan, (role,)) for role in _roles(plan)}
    homes: list[tuple[str, ...]] = [() for _ in range(devices)]
    for role in sorted(alone, key=lambda each: -alone[each]):
        emptiest = min(range(devices), key=lambda number: _peak(plan, (*homes[number], role)))
        homes[emptiest] = (*homes[emptiest], role)
    return [Device(home, _peak(plan, home)) for home in homes if home]


def _roles(plan: Plan) -> tuple[str, ...]:
    terms = [*plan.persistent, *(term for instant in plan.instants for term in instant.terms)]
    return tuple(dict.fromkeys(term.role for term in terms if term.role != "process"))


def _peak(plan: Plan, roles: tuple[str, ...]) -> int:
    return plan.of_roles(lambda role: role in roles or role == "process").peak()
