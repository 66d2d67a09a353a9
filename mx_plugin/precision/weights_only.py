"""``WeightsOnlyRollouts``: a run's provider where the policy rolls out in an engine that holds rounded weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..formats.spec import FP16, Pair
from ..interfaces import LayerInfo, Provider
from .entry import inner_phase
from .formats import LayerFormats, Product
from .fused import FusedLayer, Rounding, rounding_of
from .patterns import matches
from .provider import common_answer


class WeightsOnlyRollouts(Provider):
    """Answers as ``inner`` does, except for the policy's rollouts: those are what the engine makes of them.

    Weights take the widest format of the layers that the engine fuses, activations are not quantised unless the engine
    does it, and an output head that is tied to the embedding keeps the model's dtype.

    Args:
        inner: the run's own provider.
        packed: last name of a fused module -> last names of the layers that it holds.
        tied_head: whether the output head's weight is the embedding's.
    """

    def __init__(self, inner: Provider, packed: Mapping[str, Sequence[str]], tied_head: bool = False) -> None:
        self.inner = inner
        self.tied_head = tied_head
        self._fused_into = {part: fused for fused, parts in packed.items() for part in parts}
        self.activations: dict[str, str] = {}
        """Layer -> what the engine casts its activations to; not named: nothing."""
        self._policy: dict[str, LayerInfo] = {}
        self._groups: dict[str, list[str]] = {}
        # A provider that has a state is told from one that has none by whether it has these methods.
        for name in ("state_dict", "load_state_dict"):
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    def start(self, layers: Sequence[LayerInfo]) -> None:
        """As the inner provider, which may refuse them; also learns which layers the engine fuses."""
        self.inner.start(layers)
        self._policy = {layer.name: layer for layer in layers if layer.role == "policy"}
        self._groups = {}
        for name in self._policy:
            self._groups.setdefault(self._module(name), []).append(name)

    def _module(self, layer_name: str) -> str:
        holder, dot, last = layer_name.rpartition(".")
        return f"{holder}{dot}{self._fused_into.get(last, last)}"

    def rounding(self, layer_name: str) -> Rounding:
        """How the weight of a layer of the policy is rounded. Asked anew each time: adaptive providers change."""
        layer = self._policy[layer_name]
        siblings = self.siblings(layer_name)
        head = layer.is_lm_head
        fused = FusedLayer(layer_name, siblings, layer.in_features, layer.out_features, head, head and self.tied_head)
        return rounding_of(self.inner, fused)

    def siblings(self, layer_name: str) -> tuple[str, ...]:
        """The layers of the policy that the engine fuses with this one, itself among them."""
        return tuple(self._groups[self._module(layer_name)])

    def roundings(self) -> dict[str, Rounding]:
        """Of every layer of the policy."""
        return {name: self.rounding(name) for name in self._policy}

    def by_module(self) -> dict[str, Any]:
        """What the engine holds, by its modules: formats, siblings and what was projected. Plain data for config.json.

        Modules have the names of the plain model, but for the last one where layers are fused.
        """
        held = {module: self.rounding(names[0]) for module, names in self._groups.items()}
        return {
            "formats": {module: rounding.format for module, rounding in held.items()},
            "projected": {module: rounding.projected for module, rounding in held.items() if rounding.projected},
            "siblings": {module: list(names) for module, names in self._groups.items()},
        }

    def get_precision(self, layer_name: str, phase: str, role: str = "policy") -> LayerFormats:
        """As the inner provider, except for the policy's ``rollout``."""
        if role != "policy" or inner_phase(phase) != "rollout":
            return self.inner.get_precision(layer_name, phase, role)
        if layer_name in self._policy:
            return self._rolled_out(layer_name)
        below = {name: self._rolled_out(name) for name in self._policy if matches(layer_name, name)}
        if not below:
            return self.inner.get_precision(layer_name, phase, role)  # which says what is wrong with the name
        return common_answer(layer_name, phase, below)

    def _rolled_out(self, name: str) -> LayerFormats:
        rounding = self.rounding(name)
        pair = Pair(rounding.format, self.activations.get(name, FP16))
        return LayerFormats(forward=Product(pair, scale_rule=rounding.scale_rule))

    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Passed on."""
        return self.inner.observe(step, metrics)

    def describe(self) -> Mapping[str, Any]:
        """The inner provider's description."""
        return self.inner.describe()
