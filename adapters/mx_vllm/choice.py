"""Which modules vLLM shall execute in an MX format of its own: those whose rollout format is what its kernel does."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from mx_plugin.config import MXConfig
from mx_plugin.execution.adoption import select
from mx_plugin.execution.held_weights import OwnFormat
from mx_plugin.formats.spec import FP16
from mx_plugin.interfaces import LayerInfo, Provider
from mx_plugin.plugins import layer_types
from mx_plugin.precision.provider_choice import make_provider
from mx_plugin.precision.weights_only import WeightsOnlyRollouts

from .fused import architectures_of, class_in_vllm, fused_by_architecture, has_tied_head
from .held import BLOCK, names_in_vllm
from .kernels import VLLM_NAMES, executed_here

log = logging.getLogger(__name__)

ACTIVATION_RULES = {"MXFP8": "rceil"}
"""Format -> the scale rule by which vLLM's kernels cast activations to it; that of MXFP4's is not known."""

SMALLEST_CAST = 128
"""Inputs and outputs that vLLM 0.29's kernels which cast activations ask for (kernels/linear/mxfp8/flashinfer.py)."""


@dataclass(frozen=True)
class OwnChoice:
    """vLLM executes ``layers``, by its own names of them, in ``own``; the others' weights are rounded as ever."""

    own: OwnFormat
    layers: tuple[str, ...]

    def engine_arguments(self) -> dict[str, Any]:
        """What vLLM is started with: its online quantisation, which ignores all layers but these, and MoE experts."""
        names = "|".join(map(re.escape, self.layers))  # vLLM has no list of layers to quantise
        spec = {"linear": VLLM_NAMES[self.own.format], "ignore": [f"re:^(?!(?:{names})$)"]}
        return {"quantization": "online", "quantization_config": spec}

    def warn_of_others(self, executed: Set[str]) -> None:
        """Compare with the layers that a vLLM which was made so executes; the books tell of the latter."""
        for told, names in (
            ("does not execute", sorted(set(self.layers) - executed)),
            ("executes too", sorted(executed - set(self.layers))),
        ):
            if names:
                log.warning("vLLM %s %d layers in %s: %s", told, len(names), self.own, ", ".join(names[:5]))


def own_choice(policy: Callable[[], nn.Module], config: MXConfig) -> OwnChoice | None:
    """What a vLLM that is about to be made on this process's device shall execute by itself.

    Args:
        policy: gives the plain model, if it is needed; weights are not read, so it may lie on the meta device.

    Returns:
        None where ``vllm_formats`` says no, or where vLLM has no kernel for what the policy's rollouts ask for.
    """
    executed = executed_here() if config.vllm_formats == "auto" else []
    if not executed:
        return None
    model = policy()
    layers, _ = select({"policy": model}, layer_types())
    architectures = architectures_of(model)
    rollouts = WeightsOnlyRollouts(make_provider(config), fused_by_architecture(architectures), has_tied_head(model))
    rollouts.start([layer.info for layer in layers])
    # A transposed weight would be sent with its blocks along outputs.
    choice = choose(rollouts, [layer.info for layer in layers if not layer.layer_type.transposed], executed)
    if choice is None:
        return None
    log.info("vLLM shall execute %d layers in %s by its %s", len(choice.layers), choice.own, choice.own.kernel)
    return replace(choice, layers=tuple(names_in_vllm(class_in_vllm(architectures), choice.layers)))


def choose(
    rollouts: WeightsOnlyRollouts, layers: Iterable[LayerInfo], executed: Iterable[OwnFormat]
) -> OwnChoice | None:
    """The one of vLLM's formats that executes most weights as the policy wants them; None where there is none.

    vLLM has one format an engine. It is the policy's where it is the weights', and its kernel casts activations as the
    policy does or leaves them alone, as rounding does. By which rule vLLM chooses scales of weights does not matter:
    what it is sent lies on the grid already. A provider that may change its formats during the run is left to
    rounding, for vLLM's are fixed when it is made.

    Args:
        rollouts: started with ``layers``.
        layers: of the policy.
    """
    if type(rollouts.inner).observe is not Provider.observe:
        return None
    by_name = {layer.name: layer for layer in layers}
    found = []
    for own in executed:
        fitting = tuple(name for name, layer in by_name.items() if _fits(rollouts, layer, own))
        weights = sum(by_name[name].in_features * by_name[name].out_features for name in fitting)
        found.append((weights, OwnChoice(own, fitting)))
    weights, best = max(found, key=lambda pair: pair[0], default=(0, None))
    return best if weights else None


def _fits(rollouts: WeightsOnlyRollouts, layer: LayerInfo, own: OwnFormat) -> bool:
    if layer.is_lm_head or layer.in_features % BLOCK or rollouts.rounding(layer.name).format != own.format:
        return False
    if own.activations == FP16:
        return True
    siblings = rollouts.siblings(layer.name)
    asked = {rollouts.inner.get_precision(name, "rollout").forward for name in siblings}
    cast = {(x.pair.activations, x.scale_rule, x.rounding, x.hadamard) for x in asked}
    same = cast == {(own.activations, ACTIVATION_RULES.get(own.activations), "nearest", False)}
    return same and min(layer.in_features, layer.out_features) >= SMALLEST_CAST
