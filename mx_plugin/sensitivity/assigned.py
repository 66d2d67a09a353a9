"""The provider of a profile: each layer runs in what the measurement at hand gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import PolicyError
from ..interfaces import LayerInfo, Provider
from ..precision.formats import UNQUANTISED as PLAIN_PRODUCT
from ..precision.formats import LayerFormats

UNQUANTISED = LayerFormats()

Assignment = Mapping[str, LayerFormats]
"""Layer name -> formats, of one role; layers that it leaves out are unquantised."""


class Assigned(Provider):
    """Answers from an :data:`Assignment`, which may change between two passes."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()
        self._role = ""
        self._formats: dict[str, LayerFormats] = {}

    def assign(self, role: str, formats: Assignment) -> None:
        """From now on these layers of that role run in these formats, everything else unquantised."""
        self._role, self._formats = role, dict(formats)

    def start(self, layers: Sequence[LayerInfo]) -> None:
        """Learn which layers there are."""
        self._known = {(layer.role, layer.name) for layer in layers}

    def get_precision(self, layer_name: str, phase: str, role: str = "policy") -> LayerFormats:
        """What was assigned; ``phase`` does not matter, because one measurement runs in one phase.

        Raises:
            PolicyError: a layer that was not adopted.
        """
        if (role, layer_name) not in self._known:
            raise PolicyError(f"{role} has no layer {layer_name!r} in this profile")
        return self._formats.get(layer_name, UNQUANTISED) if role == self._role else UNQUANTISED

    def observe(self, step: int, metrics: Mapping[str, float]) -> bool:
        """True: the engine asks again."""
        return True


def forward_only(formats: LayerFormats) -> LayerFormats:
    """The same forward product, with both backward products left alone."""
    return LayerFormats(formats.forward, PLAIN_PRODUCT, PLAIN_PRODUCT)
