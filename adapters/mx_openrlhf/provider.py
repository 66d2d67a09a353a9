"""The provider that a reference model has when the policy lives elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mx_plugin.execution.phases import GRADIENT, REWARD
from mx_plugin.interfaces import LayerInfo, Provider
from mx_plugin.precision.formats import LayerFormats


class MatchingReference(Provider):
    """Answers for a reference model alone in its process as ``reference: match`` does beside the policy.

    OpenRLHF's reference is the policy's own start, so its layers have the policy's names. It scores in the formats in
    which the policy's log-probs are computed (``phase``), or KL would be biased from step 0.
    """

    def __init__(self, inner: Provider, phase: str = GRADIENT) -> None:
        self.inner = inner
        self.phase = phase

    def start(self, layers: Sequence[LayerInfo]) -> None:
        """Tell the provider of a policy with the same layers: it is asked in the policy's name."""
        self.inner.start([*layers, *(replace(layer, role="policy") for layer in layers)])

    def get_precision(self, layer_name: str, phase: str, role: str = "policy") -> LayerFormats:
        """As the inner provider, but the reference's scoring takes the policy's formats."""
        if role == "reference" and phase == REWARD:
            role, phase = "policy", self.phase
        return self.inner.get_precision(layer_name, phase, role)

    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Passed on."""
        return self.inner.observe(step, metrics)

    def describe(self) -> Mapping[str, Any]:
        """The inner provider's description."""
        return self.inner.describe()
