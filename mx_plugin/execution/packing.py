"""Packed copies of a layer's weight, one per format, and their freshness."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import AdoptionError
from ..formats.philox import StochasticKey
from ..formats.tensor import MXTensor
from ..interfaces import Backend, Handle
from ..precision.formats import Product
from .freshness import Fingerprint
from .layer import AdoptedLayer
from .released_module import released_weight
from .sharding import is_sharded

_Key = tuple[str, str, int]
"""Weight format, scale rule, and the backend's id."""


class Pack:
    """One packed copy, loaded into a backend. ``read_bytes`` is what one call reads of it."""

    __slots__ = ("backend", "handle", "nbytes", "read_bytes")

    def __init__(self, backend: Backend, packed: MXTensor) -> None:
        self.backend = backend
        self.handle: Handle = backend.load_weight(packed)
        self.nbytes = packed.nbytes
        self.read_bytes = backend.weight_bytes(packed, packed.dtype)


class PackedWeights:
    """All packed copies of one layer. ``on_pack(layer, product, dtype)`` is told of each repacking.

    ``backend`` is the layer's in no particular phase; it keeps the copy of a released weight.
    """

    def __init__(
        self, layer: AdoptedLayer, backend: Backend, on_pack: Callable[[AdoptedLayer, Product, torch.dtype], None]
    ) -> None:
        self.layer = layer
        self.backend = backend
        self.on_pack = on_pack
        # Drawn from by no rounding to nearest: it tells backends that draw for themselves which weight this is. Not
        # by role, so that policy and reference are alike.
        self._name = StochasticKey.of(0, 0, layer.name, "weight")
        self.stale = False
        self._packs: dict[_Key, Pack] = {}
        self._kept: MXTensor | None = None
        self._fingerprint: Fingerprint | None = None

    def fresh(self, product: Product, backend: Backend) -> Pack:
        """The copy in the product's weight format that ``backend`` holds, packed anew if the weight has changed.

        Raises:
            ReleasedWeightError: the weight is released, and something put another in its place.
        """
        key = (product.pair.weights, product.scale_rule, id(backend))
        if self._kept is not None:
            released_weight(self.layer.module)
            if key not in self._packs:
                self._packs[key] = Pack(backend, self._kept)
            return self._packs[key]
        weight = self.layer.weight.detach()
        if is_sharded(self.layer.module):
            raise AdoptionError(
                f"the weight of {self.layer.role} layer {self.layer.name!r} is sharded inside its own forward: MX "
                "needs it whole there, as FSDP2 gathers it; tensor parallelism is not supported"
            )
        if self.stale or (self._fingerprint is not None and not self._fingerprint.matches(weight)):
            self.drop()
        pack = self._packs.get(key)
        if pack is None:
            packed = backend.quantize(weight, key[0], -1, scale_rule=key[1], key=self._name)
            pack = self._packs[key] = Pack(backend, packed)
            if self._fingerprint is None:
                self._fingerprint = Fingerprint(weight, self.layer.sharded)
            self.on_pack(self.layer, product, backend.product_dtype(weight.dtype))
        return pack

    def keep(self, packed: MXTensor, product: Product) -> None:
        """From now on ``packed`` is the only copy: the layer's weight is released."""
        self.drop()
        self._packs[product.pair.weights, product.scale_rule, id(self.backend)] = Pack(self.backend, packed)
        self._kept = packed
        self.on_pack(self.layer, product, self.backend.product_dtype(packed.dtype))

    def let_go(self) -> None:
        """The layer has its weight back: forget the copy that stood in for it."""
        self._kept = None
        self.drop()

    @property
    def kept(self) -> bool:
        """The layer's weight is released: its one copy is all there is, and nothing can make it stale."""
        return self._kept is not None

    @property
    def keeps_decoded_copy(self) -> bool:
        """True when the backend holds more of a released weight than its packed bytes."""
        return self.kept and any(pack.read_bytes > pack.nbytes for pack in self._packs.values())

    def drop(self) -> None:
        """Forget all copies."""
        for pack in self._packs.values():
            pack.backend.unload_weight(pack.handle)
        self._packs.clear()
        self._fingerprint = None
        self.stale = False

    @property
    def nbytes(self) -> int:
        """Bytes of all packed copies, as packed."""
        return sum(pack.nbytes for pack in self._packs.values())
