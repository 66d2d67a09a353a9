"""How much each phase and role may cost: ``rollout=0.02``, ``reward.value=0.1``. Units are never added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isnan

from ...errors import PolicyError, nearest
from ..matrix import SensitivityMatrix
from ..max_cost import Scope


def parse_budgets(texts: Iterable[str]) -> dict[str, float]:
    """``["rollout=0.02", "reward.value=0.1"]`` as a mapping by ``phase`` or ``phase/role``.

    Raises:
        PolicyError: not ``name=number``, or a name given twice.
    """
    budgets: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        key = _key(name)
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals or not key:
            raise PolicyError(f"--budget {text!r} is not PHASE=COST or PHASE.ROLE=COST; write e.g. rollout=0.02")
        if key in budgets:
            raise PolicyError(f"--budget gives {name.strip()!r} twice; keep one")
        budgets[key] = number
    return budgets


def _key(name: str) -> str:
    return name.strip().replace(".", "/")


def budgets_of(budgets: Mapping[str, float], matrix: SensitivityMatrix) -> dict[Scope, float]:
    """The budget of each (phase, role) of the matrix that has one.

    A phase's budget holds for each of its roles by itself; ``phase/role`` (or ``phase.role``) overrules it.

    Raises:
        PolicyError: no budget at all; not a number of 0 or more; a phase or role that the matrix does not hold;
            a phase's budget for roles that are counted in different units; a (phase, role) that mixes metrics.
    """
    measures = matrix.measures()
    given = {_key(name): _number(name, value) for name, value in budgets.items()}
    if not given:
        scopes = ", ".join(f"{'/'.join(scope)} in {units[0]}" for scope, units in measures.items())
        raise PolicyError(f"no budget given; {matrix.source} holds {scopes}: give e.g. rollout=0.02")
    known = [*dict.fromkeys(phase for phase, _ in measures), *("/".join(scope) for scope in measures)]
    for key in given:
        if key not in known:
            raise PolicyError(f"the budget names {key!r}, which {matrix.source} does not hold: {nearest(key, known)}")
    for phase in (key for key in given if "/" not in key):
        _one_unit(phase, [s for s in measures if s[0] == phase and "/".join(s) not in given], measures, matrix.source)
    found = {
        scope: given.get("/".join(scope), given.get(scope[0]))
        for scope in measures
        if "/".join(scope) in given or scope[0] in given
    }
    for scope in found:
        _one_metric(scope, matrix)
    return {scope: budget for scope, budget in found.items() if budget is not None}


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or isnan(value):
        raise PolicyError(f"the budget of {name} is {value!r}; give a number of 0 or more, in the matrix's unit")
    if value < 0:
        raise PolicyError(f"the budget of {name} is {value:g}; the smallest feasible one is 0, where all stays FP16")
    return float(value)


def _one_unit(phase: str, scopes: list[Scope], measures: Mapping[Scope, tuple[str, ...]], source: str) -> None:
    if len({measures[scope] for scope in scopes}) > 1:
        units = ", ".join(f"{'/'.join(scope)} in {measures[scope][0]}" for scope in scopes)
        raise PolicyError(
            f"the budget of {phase} is one number, but {source} counts {units}; give one for each role, e.g. "
            f"{'.'.join(scopes[0])}=..."
        )


def _one_metric(scope: Scope, matrix: SensitivityMatrix) -> None:
    metrics = list(dict.fromkeys(row.metric for row in matrix.rows if (row.phase, row.role) == scope))
    if len(metrics) > 1:
        raise PolicyError(
            f"{matrix.source}: {'/'.join(scope)} mixes the metrics {', '.join(metrics)}, which cannot be added; choose "
            f"one, e.g. --metric {'.'.join(scope)}={metrics[0]}"
        )
