"""Which backend executes a layer in a phase: one for all, others by layer pattern, by phase where that is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import PolicyError, nearest
from ..interfaces import Backend
from ..precision.patterns import matches, nearest_layer
from . import phases

PHASES = (phases.ROLLOUT, phases.REWARD, phases.GRADIENT)


@dataclass(frozen=True)
class _Rule:
    pattern: str
    phase: str | None
    backend: Backend


class BackendChoice:
    """The default backend, and rules that name others for some layers.

    Args:
        default: what no rule matches.
        rules: ``PATTERN`` or ``PATTERN@PHASE`` -> backend; a pattern is a glob or a prefix, as in a policy. The first
            that matches wins; one without a phase matches in every phase.

    Raises:
        PolicyError: a phase that does not exist.
    """

    def __init__(self, default: Backend, rules: Mapping[str, Backend]) -> None:
        self.default = default
        self._rules = [_Rule(*split_phase(key), backend) for key, backend in rules.items()]

    def of(self, layer_name: str, phase: str | None) -> Backend:
        """The backend of a layer in ``phase``; with None, where it is in no particular one."""
        inner = phase and phases.inner(phase)
        for rule in self._rules:
            if rule.phase in (None, inner) and matches(rule.pattern, layer_name):
                return rule.backend
        return self.default

    def all(self) -> list[Backend]:
        """Every backend once, the default first."""
        found = {id(self.default): self.default}
        found.update((id(rule.backend), rule.backend) for rule in self._rules)
        return list(found.values())

    def check(self, layer_names: Sequence[str]) -> None:
        """Raises PolicyError for a pattern that matches no layer."""
        for rule in self._rules:
            if not any(matches(rule.pattern, name) for name in layer_names):
                raise PolicyError(
                    f"backends: {rule.pattern!r} matches no adopted layer: {nearest_layer(rule.pattern, layer_names)}"
                )


def automatic(device_types: Iterable[str]) -> str:
    """What ``backend: auto`` means for models on these kinds of devices.

    ``cpu`` or ``cuda``; for what else there is, or several kinds together, ``reference``, which takes any device.
    """
    kinds = set(device_types) or {"cpu"}
    return kinds.pop() if kinds in ({"cpu"}, {"cuda"}) else "reference"


def split_phase(key: str) -> tuple[str, str | None]:
    """``"*.q_proj@rollout"`` -> pattern and phase.

    Raises:
        PolicyError: a phase that does not exist.
    """
    pattern, at, phase = key.partition("@")
    if not at:
        return pattern, None
    if phase not in PHASES:
        raise PolicyError(f"backends: {key!r} names phase {phase!r}: {nearest(phase, PHASES)}")
    return pattern, phase
