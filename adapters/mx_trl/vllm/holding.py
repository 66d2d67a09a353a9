"""What a colocated vLLM holds, looked at after each sync: is every weight on the grid of its layer's rollout format?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mx_plugin.execution.held_weights import OwnFormat
from mx_plugin.precision.fused import Rounding
from mx_vllm.held import held_weights, names_in_vllm


class Holding:
    """vLLM's modules beside the policy's layers.

    Args:
        model: vLLM's model in this process.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._held = held_weights(model)

    def own(self, names: Iterable[str]) -> dict[str, OwnFormat]:
        """Layers, of these, that vLLM executes in an MX format of its own."""
        layers = names_in_vllm(self._model, names)
        by_module = {module.name: module.siblings for module in self._held.layers}
        return {
            layers[sibling]: own
            for module, own in self._held.own.items()
            for sibling in by_module[module]
            if sibling in layers
        }

    def follow(self, rounding: Mapping[str, Rounding]) -> list[str]:
        """Hold vLLM to the layers' roundings from now on.

        Returns:
            layers with a rollout format that vLLM has under another name, or as another kind of module.

        Raises:
            AdoptionError: it holds a weight in a form that cannot be looked at (packed, or quantised by itself).
        """
        layers = names_in_vllm(self._model, rounding)
        by_module = {
            module.name: rounding[layers[module.siblings[0]]]
            for module in self._held.layers
            if all(sibling in layers for sibling in module.siblings)
        }
        self._held.follow(by_module)
        found = {layers[name] for module in self._held.layers if module.name in by_module for name in module.siblings}
        return [name for name, asked in rounding.items() if asked.quantised and name not in found]

    def off_grid(self) -> list[str]:
        """vLLM's modules whose weight is not on the grid."""
        return self._held.off_grid()
