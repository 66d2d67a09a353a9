"""Silence is the enemy: every adopted layer must have executed in each phase that ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from .layer import AdoptedLayer
from .phases import OTHER, ROLLOUT, inner

Hits = dict[str, dict[str, dict[str, int]]]


def count_hits(layers: Iterable[AdoptedLayer]) -> Hits:
    """Calls by role, phase (``eval/`` folded in) and layer; phases that a layer never saw are absent."""
    hits: Hits = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    for layer in layers:
        for phase, tally in layer.tallies.items():
            if inner(phase) != OTHER and tally.total_calls:
                hits[layer.role][inner(phase)][layer.name] += tally.total_calls
    return {role: {phase: dict(by) for phase, by in phases.items()} for role, phases in hits.items()}


def sum_hits(of_ranks: Iterable[Hits]) -> Hits:
    """Calls of several ranks' layers, added."""
    total: Hits = {}
    for hits in of_ranks:
        for role, by_phase in hits.items():
            for phase, by_layer in by_phase.items():
                counts = total.setdefault(role, {}).setdefault(phase, {})
                for name, calls in by_layer.items():
                    counts[name] = counts.get(name, 0) + calls
    return total


def find_unhit(
    layers: Iterable[AdoptedLayer], phases_run: Iterable[str], quantised: Callable[[AdoptedLayer, str], bool]
) -> list[tuple[str, str, str]]:
    """(role, phase, layer) of every layer whose format was skipped.

    A role counts as running in a phase when any of its layers executed there; the policy always
    runs in ``rollout``. Layers left unquantised in that phase have no format to skip.
    """
    layers = list(layers)
    hits = count_hits(layers)
    run = {inner(phase) for phase in phases_run} - {OTHER}
    unhit = []
    for layer in layers:
        for phase in sorted(run):
            by_layer = hits.get(layer.role, {}).get(phase, {})
            expected = bool(by_layer) or (layer.role == "policy" and phase == ROLLOUT)
            if expected and layer.name not in by_layer and quantised(layer, phase):
                unhit.append((layer.role, phase, layer.name))
    return unhit
