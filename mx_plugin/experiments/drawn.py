"""The policy that is drawn from a sensitivity matrix, such as D: by a limit for each layer, or by a budget for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..precision import PrecisionPolicy, SensitivityMatrix, load_policy
from ..precision.max_cost import MaxCost
from ..precision.search import Allowed, Bytes, Shape, search, shapes_of

if TYPE_CHECKING:
    from .policies import Layer

DEFAULT_BUDGET = {"rollout": 0.02}
"""Nats a token that rollouts may lie from the unquantised policy, where no limit was given."""


def draw(
    policy: PrecisionPolicy,
    matrix: SensitivityMatrix,
    layers: Sequence[Layer],
    max_cost: MaxCost | None = None,
    budget: Mapping[str, float] | None = None,
) -> PrecisionPolicy:
    """``policy`` with formats for every layer: the narrowest of at most ``max_cost`` each, or else those of least
    bytes whose costs add up to at most ``budget``.

    Raises:
        PolicyError, MatrixError, MXError: what ``load_policy`` and ``search`` raise.
    """
    if max_cost is not None:
        return load_policy(policy, sensitivity_matrix=matrix, max_cost=max_cost)
    models: dict[str, dict[str, Shape]] = {}
    for layer in layers:
        info = layer.info
        models.setdefault(info.role, {})[info.name] = Shape(info.out_features, info.in_features, layer.dtype)
    result = search(
        matrix, budget or DEFAULT_BUDGET, Bytes(), shapes_of(matrix, models),
        Allowed(activations=policy.activations), scale_rule=policy.scale_rule,
    )  # fmt: skip
    found = result.policy(policy.name)
    # The file's name alone: a folder of results that moves holds the same policies.
    return replace(found, description=found.description.replace(matrix.source, Path(matrix.source).name))
