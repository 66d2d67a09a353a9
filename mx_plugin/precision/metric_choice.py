"""Which of a matrix's metrics counts: a profile may hold several for each phase and role.

A metric that is a plain word (``kl``) is the cost of quantising one layer alone. What else was done stands after
a colon: ``kl:others`` is the cost of quantising all the others, ``gradient_error:forward`` that of the forward
product alone, ``kl:estimate`` was estimated. Such a metric counts only where it is asked for, or is the only one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import MatrixError, nearest

if TYPE_CHECKING:
    from .matrix import SensitivityMatrix

Scope = tuple[str, str]
"""(phase, role)."""


def one_metric(matrix: SensitivityMatrix, metrics: Mapping[str, str] | None = None) -> SensitivityMatrix:
    """The same matrix with one metric for each phase and role.

    Args:
        metrics: the metric that counts, by phase or ``phase/role`` (which wins); where nothing is said, the one
            of quantising a layer alone.

    Raises:
        MatrixError: a phase, role or metric that the matrix does not hold; several metrics, and none is named.
    """
    found: dict[Scope, dict[str, None]] = {}
    for row in matrix.rows:
        found.setdefault((row.phase, row.role), {})[row.metric] = None
    asked = dict(metrics or {})
    known = list(dict.fromkeys([phase for phase, _ in found] + ["/".join(scope) for scope in found]))
    for key in asked:
        if key not in known:
            raise MatrixError(f"{matrix.source}: a metric is chosen for {key!r}, of which it says nothing: "
                              f"{nearest(key, known)}")  # fmt: skip
    kept = {scope: _metric(scope, list(names), asked, matrix.source) for scope, names in found.items()}
    if all(len(names) == 1 for names in found.values()):
        return matrix
    rows = tuple(row for row in matrix.rows if row.metric == kept[row.phase, row.role])
    return type(matrix)(rows, matrix.source)


def _metric(scope: Scope, names: list[str], asked: Mapping[str, str], source: str) -> str:
    where = f"{source}: {'/'.join(scope)}"
    chosen = asked.get("/".join(scope), asked.get(scope[0]))
    if chosen is not None:
        if chosen not in names:
            raise MatrixError(f"{where} has no metric {chosen!r}: {nearest(chosen, names)}")
        return chosen
    plain = [name for name in names if ":" not in name]
    candidates = plain or names
    if len(candidates) > 1:
        raise MatrixError(
            f"{where} has several metrics, {', '.join(candidates)}, whose costs cannot be compared; choose one"
        )
    return candidates[0]
