"""Which format each weight of an inference engine takes: the rollout formats, projected where it fuses layers.

Such an engine (vLLM) holds weights that lie on the grid of their format and multiplies them itself: *weights only*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..formats.spec import FP16, get_format, is_unquantised
from ..interfaces import LayerInfo, Provider
from .formats import Product

WEIGHTS_ONLY = "weights-only"
BY_ENGINE = "engine"
"""Ends the booked format of what an engine executed in an MX format of its own."""


def weights_only(fmt: str) -> str:
    """The pair in which such an engine multiplies: ``MXFP4/FP16``, or ``FP16``."""
    return FP16 if is_unquantised(fmt) else f"{fmt}/{FP16}"


def booked_format(fmt: str, own: str = "") -> str:
    """How energy.csv names what such an engine multiplied: ``MXFP4/FP16+weights-only``, or ``FP16``.

    ``own``: the pair of a format of the engine's own, in which it executed the layer: ``MXFP8/MXFP8+engine``.
    """
    if own:
        return f"{own}+{BY_ENGINE}"
    return FP16 if is_unquantised(fmt) else f"{weights_only(fmt)}+{WEIGHTS_ONLY}"


@dataclass(frozen=True)
class FusedLayer:
    """A linear module of the engine: its name, the layers of the plain model that it holds, and its shape."""

    name: str
    siblings: tuple[str, ...]
    in_features: int
    out_features: int
    is_lm_head: bool = False
    tied: bool = False
    """An output head whose weight is the embedding's."""


@dataclass(frozen=True)
class Rounding:
    """How one module's weight is rounded; ``projected`` says what it was projected from, "" if from nothing."""

    format: str
    scale_rule: str = "rceil"
    projected: str = ""

    @property
    def quantised(self) -> bool:
        return not is_unquantised(self.format)


def sibling_names(name: str, packed: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Layers of the plain model behind a module of the engine; ``packed``: last name -> last names of what it holds.

    >>> sibling_names("model.layers.0.mlp.gate_up_proj", {"gate_up_proj": ["gate_proj", "up_proj"]})
    ('model.layers.0.mlp.gate_proj', 'model.layers.0.mlp.up_proj')
    """
    holder, dot, last = name.rpartition(".")
    return tuple(f"{holder}{dot}{part}" for part in packed.get(last, (last,)))


def width(fmt: str) -> float:
    """Bits of one element; the model's own dtype is the widest of all."""
    return float("inf") if is_unquantised(fmt) else get_format(fmt).element.bits


def rollout_rounding(provider: Provider, layers: Iterable[FusedLayer]) -> dict[str, Rounding]:
    """``{module of the engine: rounding}``, after ``provider.start``; see :func:`rounding_of`.

    Raises:
        PolicyError: the policy does not fit these layers, as ``Provider.start`` says it.
    """
    layers = list(layers)
    provider.start(
        [
            LayerInfo(sibling, "policy", layer.in_features, layer.out_features, layer.is_lm_head)
            for layer in layers
            for sibling in layer.siblings
        ]
    )
    return {layer.name: rounding_of(provider, layer) for layer in layers}


def rounding_of(provider: Provider, layer: FusedLayer) -> Rounding:
    """Siblings that are fused share the widest of their rollout formats.

    A head that is tied to the embedding keeps the model's own dtype: its weight is the embedding's too.
    """
    asked = {name: provider.get_precision(name, "rollout", "policy").forward for name in layer.siblings}
    if layer.tied:
        (only,) = asked.values()
        told = f"{only.pair.weights}: the head's weight is the embedding's" if only.pair.weights != FP16 else ""
        return Rounding(FP16, projected=told)
    widest: Product = max(asked.values(), key=lambda product: width(product.pair.weights))
    formats = {product.pair.weights for product in asked.values()}
    told = ""
    if len(formats) > 1:
        told = ", ".join(f"{name.rpartition('.')[2]} {product.pair.weights}" for name, product in asked.items())
    return Rounding(widest.pair.weights, widest.scale_rule, told)
