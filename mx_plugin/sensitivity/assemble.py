"""Runs the engines over all scopes and puts together what they found."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..execution.engine import Engine
from ..execution.work import dtype_name
from ..precision.matrix import MatrixRow
from ..precision.patterns import matches
from .correlation import spearman
from .errors import ProfileError
from .exact import ALL, ALL_BUT, ALONE, Exact
from .fast import Estimates, estimate
from .measures import Costs
from .progress import Progress
from .result import Profile, RankCorrelation, WholeCost

log = logging.getLogger(__name__)

SUFFIXES = {ALONE: "", ALL_BUT: "_all_but"}
"""What is added to a metric's name; a plain name is the cost of quantising that layer alone."""

ESTIMATE = "_estimate"


def assemble(
    scopes: Sequence[Exact],
    engine: str,
    seed: int,
    progress: Progress,
    identity: Mapping[str, Any],
    adopting: Engine,
    exclude: Sequence[str],
) -> Profile:
    """Measure every scope, one after the other, and estimate it."""
    progress.begin(sum((scope.total if engine == "exact" else 0) + 1 for scope in scopes))
    rows: list[MatrixRow] = []
    whole: list[WholeCost] = []
    correlations: list[RankCorrelation] = []
    for scope in scopes:
        if engine == "exact":
            scope.run(progress.step)
            rows += _measured(scope)
            whole += _whole(scope)
        estimates = _estimates(scope, engine, seed)
        rows += _estimated(scope, estimates)
        if engine == "exact":
            correlations += _correlations(scope, estimates)
        scope.measure.forget()
        progress.step(f"{scope.subject.scope} estimated")
    progress.end()
    left_out = [f"{x.role} {x.name}: {x.reason}" for x in adopting.left_out]
    left_out += [f"{x.role} {x.name}: excluded" for x in adopting.layers if any(matches(p, x.name) for p in exclude)]
    return Profile(tuple(rows), tuple(whole), tuple(correlations), dict(identity), tuple(left_out))


def _costs(scope: Exact, kind: str) -> Iterator[tuple[str, str, Costs]]:
    """(layer, format, costs) of everything that was executed, layer by layer."""
    for layer in scope.subject.layers:
        for fmt in scope.formats:
            costs = scope.journal.get((scope.subject.phase, scope.subject.role, fmt, kind, layer.name))
            if costs:
                yield layer.name, fmt, costs


def _measured(scope: Exact) -> Iterator[MatrixRow]:
    for metric in scope.measure.metrics:
        for kind, suffix in SUFFIXES.items():
            for layer, fmt, costs in _costs(scope, kind):
                yield _row(scope, layer, fmt, costs[metric], metric, suffix)


def _row(scope: Exact, layer: str, fmt: str, cost: float, metric: str, suffix: str) -> MatrixRow:
    subject = scope.subject
    record = next(x for x in subject.layers if x.name == layer)
    return MatrixRow(
        layer, subject.phase, subject.role, fmt, cost, metric + suffix, scope.measure.units[metric],
        record.in_features, record.out_features, dtype_name(record.weight.dtype),
    )  # fmt: skip


def _whole(scope: Exact) -> Iterator[WholeCost]:
    subject = scope.subject
    for fmt in scope.formats:
        costs = scope.journal[subject.phase, subject.role, fmt, ALL, ""]
        for metric in scope.measure.metrics:
            yield WholeCost(subject.phase, subject.role, fmt, metric, costs[metric], scope.measure.units[metric])


def _estimates(scope: Exact, engine: str, seed: int) -> Estimates:
    """The fast engine's; beside the exact one it may fail, which is said."""
    try:
        scope.measure.prepare()
        idle = set(scope.subject.never_executed())
        found = estimate(scope.measure, {fmt: scope.entry(fmt) for fmt in scope.formats}, seed)
        return {key: costs for key, costs in found.items() if key[0] not in idle}
    except ProfileError as error:
        if engine == "fast":
            raise
        log.warning("no estimate, and so no rank correlation: %s", error)
        return {}


def _estimated(scope: Exact, estimates: Estimates) -> Iterator[MatrixRow]:
    for metric in scope.measure.metrics:
        for layer in scope.subject.layers:
            for fmt in scope.formats:
                costs = estimates.get((layer.name, fmt), {})
                if metric in costs:
                    yield _row(scope, layer.name, fmt, costs[metric], metric, ESTIMATE)


def _correlations(scope: Exact, estimates: Estimates) -> Iterator[RankCorrelation]:
    exact = {(layer, fmt): costs for layer, fmt, costs in _costs(scope, ALONE)}
    for metric in scope.measure.metrics:
        keys = [key for key in exact if metric in estimates.get(key, {})]
        if not keys:
            continue

        def rank(chosen: list[tuple[str, str]], metric: str = metric) -> float | None:
            return spearman([exact[key][metric] for key in chosen], [estimates[key][metric] for key in chosen])

        by_format = {fmt: rank([key for key in keys if key[1] == fmt]) for fmt in scope.formats}
        yield RankCorrelation(scope.subject.phase, scope.subject.role, metric, rank(keys), by_format, len(keys))
