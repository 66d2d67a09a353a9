"""``max_cost``: how much quality a format may cost - one number, or one per phase or ``phase/role``.

Costs counted in different units are never compared, so one number serves only where there is one unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan

from ..errors import PolicyError, nearest

MaxCost = float | Mapping[str, float]
Scope = tuple[str, str]
"""(phase, role)."""


def limits(max_cost: MaxCost, measures: Mapping[Scope, tuple[str, ...]], source: str) -> dict[Scope, float]:
    """The limit of each (phase, role) of a matrix; ``measures`` says what its costs are counted in.

    Raises:
        PolicyError: not a number of 0 or more; units that one number cannot serve; a phase of the
            matrix without a limit; a key that is no phase of the matrix.
    """
    for scope, units in measures.items():
        if len(units) > 1:
            raise PolicyError(
                f"{source}: {'/'.join(scope)} mixes units {', '.join(units)}, which cannot be compared; "
                "keep one metric per phase and role"
            )
    if not isinstance(max_cost, Mapping):
        limit = _number(max_cost, "max_cost")
        _one_unit("max_cost", list(measures), measures, source)
        return dict.fromkeys(measures, limit)
    given = {str(key): _number(value, f"max_cost[{key!r}]") for key, value in max_cost.items()}
    _check_keys(given, measures, source)
    for phase in given:
        inherits = [scope for scope in measures if scope[0] == phase and "/".join(scope) not in given]
        _one_unit(f"max_cost[{phase!r}]", inherits, measures, source)
    return {scope: given["/".join(scope)] if "/".join(scope) in given else given[scope[0]] for scope in measures}


def _check_keys(given: Mapping[str, float], measures: Mapping[Scope, tuple[str, ...]], source: str) -> None:
    phases = list(dict.fromkeys(phase for phase, _ in measures))
    known = [*phases, *("/".join(scope) for scope in measures)]
    for key in given:
        if key not in known:
            raise PolicyError(f"max_cost names {key!r}, which {source} does not hold: {nearest(key, known)}")
    for scope in measures:
        if scope[0] not in given and "/".join(scope) not in given:
            raise PolicyError(
                f"max_cost has no limit for {'/'.join(scope)}, in {measures[scope][0]}; "
                f"add {scope[0]!r} or {'/'.join(scope)!r} (0 admits only what costs nothing)"
            )


def _one_unit(what: str, scopes: list[Scope], measures: Mapping[Scope, tuple[str, ...]], source: str) -> None:
    if len({measures[scope][0] for scope in scopes}) <= 1:
        return
    units = ", ".join(f"{'/'.join(scope)} in {measures[scope][0]}" for scope in scopes)
    example = ", ".join(f"'{'/'.join(scope)}': ..." for scope in scopes[:2])
    raise PolicyError(
        f"{what} is one number, but {source} counts costs in several units, which cannot be compared: {units}; "
        f"give a mapping by phase or phase/role, e.g. {{{example}}}"
    )


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or isnan(value) or value < 0:
        raise PolicyError(f"{what} is {value!r}; give a number of 0 or more, in the unit of the matrix")
    return float(value)
