"""Weights on their way to vLLM: those with a rollout format are rounded, and none may be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

from mx_plugin.execution.adoption import canonical_name
from mx_plugin.execution.held_weights import rounded
from mx_plugin.execution.layer import AdoptedLayer
from mx_plugin.precision.fused import Rounding

Named = tuple[str, torch.Tensor]


class RoundedSending:
    """Rounds what a trainer sends, never what it trains: ``rounding`` is asked anew at the start of each sync.

    Args:
        layers: the policy's adopted layers.
        rounding: ``{layer: rounding}``.
    """

    def __init__(self, layers: Iterable[AdoptedLayer], rounding: Callable[[], Mapping[str, Rounding]]) -> None:
        self._inputs = {layer.name: 0 if layer.layer_type.transposed else -1 for layer in layers}
        """Layer -> the dimension of its weight that holds its inputs."""
        self._ask = rounding
        self._sent: set[str] = set()
        self.rounding: Mapping[str, Rounding] = {}
        """As of the last sync."""
        self.syncs = 0

    def begin(self) -> None:
        """A sync of all weights begins."""
        self.rounding = self._ask()
        self._sent = set()

    def __call__(self, named: Iterable[Named]) -> Iterator[Named]:
        """The same names and shapes, with rounded weights. Others pass unchanged."""
        for name, tensor in named:
            layer = canonical_name(name.removesuffix(".weight")) if name.endswith(".weight") else ""
            rounding = self.rounding.get(layer)
            if rounding is None or not rounding.quantised:
                yield name, tensor
                continue
            with torch.no_grad():
                copy = rounded(tensor, rounding, self._inputs[layer])
            yield name, copy
            self._sent.add(layer)

    def missing(self) -> list[str]:
        """Layers with a rollout format whose weight was not sent since :meth:`begin`."""
        return [name for name, rounding in self.rounding.items() if rounding.quantised and name not in self._sent]
