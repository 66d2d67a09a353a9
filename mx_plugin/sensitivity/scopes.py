"""Which phases and roles are profiled, and by which measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from ..execution.engine import Engine
from ..execution.layer import AdoptedLayer
from ..execution.phases import GRADIENT, REWARD, ROLLOUT
from ..precision.formats import PHASES
from ..precision.patterns import matches
from .assigned import Assigned
from .batches import Batch
from .errors import ProfileError
from .measures import Distributions, Gradients, Loss, Measure, Scores
from .subject import Subject


def measures(
    engine: Engine,
    provider: Assigned,
    models: Mapping[str, nn.Module],
    data: Mapping[str, list[Batch]],
    *,
    pairs: torch.Tensor | None,
    losses: Mapping[str, Loss],
    phases: Sequence[str] | None,
    exclude: Sequence[str],
) -> Iterator[Measure]:
    """One measure for each phase and role that has a model, in the order of the phases.

    Raises:
        ProfileError: a phase that was asked for has no model, or no layer is left in it.
    """
    for phase, role in _scopes(models, phases, losses):
        layers = [
            layer
            for layer in _candidates(engine, role, phase)
            if not any(matches(pattern, layer.name) for pattern in exclude)
        ]
        if not layers:
            raise ProfileError(f"{phase}/{role}: no layer is left to profile; exclude fewer")
        subject = Subject(engine, provider, models[role], phase, role, layers, data[role])
        if phase == GRADIENT:
            yield Gradients(subject, losses.get(role))
        elif role in ("policy", "reference"):
            yield Distributions(subject)
        else:
            yield Scores(subject, pairs if role == "reward" else None)


def _scopes(
    models: Mapping[str, nn.Module], phases: Sequence[str] | None, losses: Mapping[str, Loss]
) -> Iterator[tuple[str, str]]:
    roles = {
        ROLLOUT: ["policy"],
        REWARD: [role for role in ("reward", "value", "reference") if role in models],
        # Only its owner knows what a critic is trained on.
        GRADIENT: ["policy", *(["value"] if "value" in models and "value" in losses else [])],
    }
    for phase in PHASES:
        if phases and phase not in phases:
            continue
        if phases and not roles[phase]:
            raise ProfileError("phase reward needs a model that scores: give models={'reward': ...} (--reward_model)")
        yield from ((phase, role) for role in roles[phase])


def _candidates(engine: Engine, role: str, phase: str) -> list[AdoptedLayer]:
    """The layers of a role that may take a format in a phase: an output head may in rollout only."""
    return [layer for layer in engine.layers if layer.role == role and (phase == ROLLOUT or not layer.is_lm_head)]
