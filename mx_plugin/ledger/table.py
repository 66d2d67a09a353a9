"""The closing table of a run, in plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .rows import EnergyRow
from .summary import Joules, PhaseSummary, overall, summarise

_NOT_KNOWN = "n/a"


def closing_table(
    rows: Iterable[EnergyRow],
    reasons: Mapping[str, str] | None = None,
    reward: tuple[float | None, float | None] | None = None,
) -> str:
    """Seconds, joules (one column per source, never added up), GB moved and GMACs by format, per phase.

    Args:
        rows: every row of the run.
        reasons: source -> why its joules are unknown (``Ledger.reasons``); printed below the table.
        reward: first and last reward of the run; None for one that is not known.
    """
    rows = list(rows)
    phases = summarise(rows)
    total = overall(rows)
    sources = list(total.joules)
    header = ["phase", "seconds", *(_heading(total.joules[s], s) for s in sources), "GB moved", "GMACs by format"]
    body = [_line(name, phase, sources) for name, phase in phases.items()]
    lines = [*_align([header, *body, _line("total", total, sources)])]
    lines += _footnotes(total, reasons or {})
    if reward is not None:
        first, last = (_NOT_KNOWN if value is None else f"{value:.4g}" for value in reward)
        lines.append(f"reward: {first} -> {last}")
    return "\n".join(lines)


def _heading(joules: Joules, source: str) -> str:
    return f"J {source} (est.)" if joules.estimated else f"J {source}"


def _line(name: str, phase: PhaseSummary, sources: Sequence[str]) -> list[str]:
    seconds = _NOT_KNOWN if phase.seconds is None else f"{phase.seconds:.2f}"
    moved = "" if phase.bytes is None else f"{phase.bytes / 1e9:.3f}"
    macs = ", ".join(f"{fmt} {count / 1e9:.3f}" for fmt, count in sorted(phase.macs.items()) if count)
    return [name, seconds, *(_joules(phase.joules.get(source)) for source in sources), moved, macs]


def _joules(total: Joules | None) -> str:
    if total is None:
        return ""
    if total.joules is None:
        return _NOT_KNOWN
    return f"{total.joules:.4g}" if total.complete else f">= {total.joules:.4g}"


def _align(table: Sequence[Sequence[str]]) -> list[str]:
    """The first and the last column to the left, numbers between them to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    last = len(widths) - 1
    lines = [
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    rule = "-" * max(len(line) for line in lines)
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def _footnotes(total: PhaseSummary, reasons: Mapping[str, str]) -> list[str]:
    notes = []
    for source, joules in total.joules.items():
        why = reasons.get(source, "no reason was given")
        if joules.joules is None:
            notes.append(f"{source}: n/a: {why}")
        elif not joules.complete:
            notes.append(f"{source}: unknown in {joules.unknown} of {joules.rows} rows: {why}")
        if joules.estimated:
            notes.append(f"{source}: (est.) an estimate from a table of energies, not a measurement")
    return notes
