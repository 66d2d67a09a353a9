"""The answer of a precision provider: which formats one layer runs in during one phase."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import FormatError, nearest
from ..formats.spec import FP16, ROUNDINGS, SCALE_RULES, Pair, canonical

PHASES = ("rollout", "reward", "gradient")
"""Phases that a policy names; ``other`` holds no linear call and ``eval/`` is an outer qualifier."""

ROLES = ("policy", "value", "reference", "reward")


@dataclass(frozen=True)
class Product:
    """One matrix product's cast: the formats of its two operands and how they are rounded.

    Operands by product, in the order of ``pair`` (``weights/activations``):
    forward Y = X W^T: W / X; dgrad dX = dY W: W / dY; wgrad dW = dY^T X: X / dY.
    """

    pair: Pair
    rounding: str = "nearest"
    scale_rule: str = "rceil"
    hadamard: bool = False

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise FormatError(f"unknown rounding {self.rounding!r}: {nearest(self.rounding, ROUNDINGS)}")
        if self.scale_rule not in SCALE_RULES:
            raise FormatError(f"unknown scale_rule {self.scale_rule!r}: {nearest(self.scale_rule, SCALE_RULES)}")

    def __str__(self) -> str:
        if not self.pair.quantised:
            return FP16
        extras = [] if self.rounding == "nearest" else ["sr"]
        extras += ["rht"] if self.hadamard else []
        return "+".join([str(self.pair), *extras])


UNQUANTISED = Product(Pair(FP16, FP16))


@dataclass(frozen=True, eq=False)
class LayerFormats:
    """Formats of one (layer, phase, role).

    ``forward`` is what ``rollout`` and ``reward`` execute; ``dgrad`` and ``wgrad`` are the two
    backward products and matter in ``gradient`` only. Prints as, and compares equal to, the name of
    the weights' format (``"MXFP4"``); also equal to the whole pair (``"MXFP4/MXFP8"``).
    """

    forward: Product = field(default=UNQUANTISED)
    dgrad: Product = field(default=UNQUANTISED)
    wgrad: Product = field(default=UNQUANTISED)

    @property
    def weights(self) -> str:
        return self.forward.pair.weights

    @property
    def activations(self) -> str:
        return self.forward.pair.activations

    @property
    def quantised(self) -> bool:
        """True when any of the three products has a quantised operand."""
        return self.forward.pair.quantised or self.dgrad.pair.quantised or self.wgrad.pair.quantised

    def __str__(self) -> str:
        return self.weights

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LayerFormats):
            return (self.forward, self.dgrad, self.wgrad) == (other.forward, other.dgrad, other.wgrad)
        if isinstance(other, str):
            try:
                sides = [canonical(side) for side in other.split("/")]
            except FormatError:
                return False
            return sides in ([self.weights], [self.weights, self.activations])
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.weights)
