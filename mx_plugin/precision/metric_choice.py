"""Which of a file's metrics a matrix is made of: a profile holds several for each phase and role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import MatrixError, nearest
from .formats import PHASES
from .matrix import MatrixRow

DEFAULT_METRICS = ("kl", "score_error", "gradient_error")
"""What ``mx-plugin profile`` measures first in a phase: the cost of quantising one layer alone. Its other
metrics (``kl_all_but``, ``kl_estimate``, ``rank_disagreement``, ...) are read only when they are asked for."""

MetricChoice = str | Mapping[str, str] | None
"""One metric for all phases, or one by phase or ``phase/role``; None takes the default."""


def one_metric(rows: Sequence[MatrixRow], choice: MetricChoice, source: str) -> list[MatrixRow]:
    """The rows of one metric for each (phase, role).

    Where nothing is asked for, a default metric is taken if it speaks about every layer and format of the phase
    and role; otherwise all rows stay, and whoever compares them refuses to mix metrics.

    Raises:
        MatrixError: a metric, phase or role that the rows do not hold.
    """
    scopes: dict[tuple[str, str], list[MatrixRow]] = {}
    for row in rows:
        scopes.setdefault((row.phase, row.role), []).append(row)
    _check_scopes(choice, scopes, source)
    kept = {scope: _metric(members, _asked(choice, scope), scope, source) for scope, members in scopes.items()}
    return [row for row in rows if kept[row.phase, row.role] in (None, row.metric)]


def _asked(choice: MetricChoice, scope: tuple[str, str]) -> str | None:
    if choice is None or isinstance(choice, str):
        return choice
    return choice.get("/".join(scope), choice.get(scope[0]))


def _check_scopes(choice: MetricChoice, scopes: Mapping[tuple[str, str], object], source: str) -> None:
    if not isinstance(choice, Mapping):
        return
    known = list(dict.fromkeys([phase for phase, _ in scopes] + ["/".join(scope) for scope in scopes]))
    for key in choice:
        if key not in known and key not in PHASES:
            raise MatrixError(f"metric names {key!r}, which {source} does not hold: {nearest(str(key), known)}")


def _metric(rows: Sequence[MatrixRow], asked: str | None, scope: tuple[str, str], source: str) -> str | None:
    found = list(dict.fromkeys(row.metric for row in rows))
    if asked is not None:
        if asked not in found:
            raise MatrixError(f"{source} has no metric {asked!r} for {'/'.join(scope)}: {nearest(asked, found)}")
        return asked
    if len(found) == 1:
        return None
    everything = {(row.layer, row.format) for row in rows}
    for metric in DEFAULT_METRICS:
        if {(row.layer, row.format) for row in rows if row.metric == metric} == everything:
            return metric
    return None
