"""Which share of the work ran in which format, from the ledger of an MXCallback."""

from __future__ import annotations

from collections.abc import Iterable

from mx_plugin.ledger import EnergyRow


def format_mix(rows: Iterable[EnergyRow]) -> dict[str, float]:
    """``{"rollout/MXFP4": 0.9, ...}``: of the MACs that linear layers executed in a phase, by the weights' format.

    The rows are those of one or more steps; attention and phases that executed nothing are left out.
    """
    macs: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.macs and row.role != "all" and row.format != "attention":
            of_phase = macs.setdefault(row.phase, {})
            weights = row.format.partition("+")[0].partition("/")[0]
            of_phase[weights] = of_phase.get(weights, 0.0) + row.macs
    return {
        f"{phase}/{name}": value / sum(of_phase.values())
        for phase, of_phase in macs.items()
        for name, value in of_phase.items()
    }
