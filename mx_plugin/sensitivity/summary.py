"""A profile in words: the most sensitive layers of each phase and role."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..precision.matrix import MatrixRow
from .assemble import ESTIMATE, SUFFIXES
from .exact import ALL_BUT
from .result import Profile, RankCorrelation


def summary(profile: Profile, layers: int = 8) -> str:
    """For each phase and role a table of the ``layers`` whose narrowest format costs most alone, and whole models."""
    scopes = list(dict.fromkeys((row.phase, row.role) for row in profile.rows))
    return "\n\n".join("\n".join(_scope(profile, phase, role, layers)) for phase, role in scopes)


def _scope(profile: Profile, phase: str, role: str, count: int) -> Iterator[str]:
    rows = [row for row in profile.rows if (row.phase, row.role) == (phase, role)]
    metric = rows[0].metric
    alone = {(row.layer, row.format): row.cost for row in rows if row.metric == metric}
    formats = list(dict.fromkeys(fmt for _, fmt in alone))
    narrowest = min(formats, key=lambda fmt: _bits(rows, fmt))
    ranked = sorted(dict.fromkeys(layer for layer, _ in alone), key=lambda layer: -alone[layer, narrowest])
    left_out = {row.layer: row.cost for row in rows
                if row.metric == metric + SUFFIXES[ALL_BUT] and row.format == narrowest}  # fmt: skip
    whole = {cost.format: cost.cost for cost in profile.whole
             if (cost.phase, cost.role, cost.metric) == (phase, role, metric)}  # fmt: skip
    yield f"{phase}/{role}: {metric} in {rows[0].unit}, {len(ranked)} layers"
    head = ["layer, quantised alone", *formats]
    if left_out:
        head.append(f"all but it in {narrowest}")
    table = [head]
    for layer in ranked[:count]:
        cells = [layer, *(f"{alone[layer, fmt]:.3g}" for fmt in formats)]
        table.append(cells + ([f"{left_out[layer]:.3g}"] if left_out else []))
    if whole:
        table.append(["all layers at once", *(f"{whole[fmt]:.3g}" for fmt in formats)])
        table.append(["sum of layers alone", *(f"{sum(alone[x, fmt] for x in ranked):.3g}" for fmt in formats)])
    yield from _aligned(table)
    for correlation in profile.correlations:
        if (correlation.phase, correlation.role) == (phase, role):
            yield _correlation(correlation)
    if metric.endswith(ESTIMATE):
        yield "estimated from one backward pass; --engine exact measures"


def _bits(rows: Sequence[MatrixRow], fmt: str) -> float:
    return next(row.bits_per_weight for row in rows if row.format == fmt)


def _aligned(table: list[list[str]]) -> Iterator[str]:
    widths = [max(len(cells[i]) for cells in table if i < len(cells)) for i in range(len(table[0]))]
    for cells in table:
        padded = [
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(cells, widths, strict=False))
        ]
        yield "  " + "  ".join(padded).rstrip()


def _correlation(found: RankCorrelation) -> str:
    def show(value: float | None) -> str:
        return "none" if value is None else f"{value:.2f}"

    each = ", ".join(f"{fmt} {show(value)}" for fmt, value in found.by_format.items())
    return (
        f"  fast estimate of {found.metric}: rank correlation {show(found.all_formats)} ({found.pairs} costs); {each}"
    )
