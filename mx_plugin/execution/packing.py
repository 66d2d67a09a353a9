"""Packed copies of a layer's weight, one per format, and their freshness."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..interfaces import Backend, Handle
from ..precision.formats import Product
from .freshness import Fingerprint
from .layer import AdoptedLayer


class Pack:
    """One packed copy, loaded into a backend. ``read_bytes`` is what one call reads of it."""

    __slots__ = ("backend", "handle", "nbytes", "read_bytes")

    def __init__(self, backend: Backend, weight: torch.Tensor, fmt: str, scale_rule: str) -> None:
        packed = backend.quantize(weight, fmt, -1, scale_rule=scale_rule)
        self.backend = backend
        self.handle: Handle = backend.load_weight(packed)
        self.nbytes = packed.nbytes
        self.read_bytes = backend.weight_bytes(packed, weight.dtype)


class PackedWeights:
    """All packed copies of one layer. ``on_pack(layer, product, dtype)`` is told of each repacking."""

    def __init__(
        self, layer: AdoptedLayer, backend: Backend, on_pack: Callable[[AdoptedLayer, Product, torch.dtype], None]
    ) -> None:
        self.layer = layer
        self.backend = backend
        self.on_pack = on_pack
        self.stale = False
        self._packs: dict[tuple[str, str], Pack] = {}
        self._fingerprint: Fingerprint | None = None

    def fresh(self, product: Product) -> Pack:
        """The copy in the product's weight format, packed anew if the weight has changed."""
        weight = self.layer.weight.detach()
        if self.stale or (self._fingerprint is not None and not self._fingerprint.matches(weight)):
            self.drop()
        key = (product.pair.weights, product.scale_rule)
        pack = self._packs.get(key)
        if pack is None:
            pack = self._packs[key] = Pack(self.backend, weight, *key)
            if self._fingerprint is None:
                self._fingerprint = Fingerprint(weight)
            self.on_pack(self.layer, product, self.backend.product_dtype(weight.dtype))
        return pack

    def drop(self) -> None:
        """Forget all copies."""
        for pack in self._packs.values():
            self.backend.unload_weight(pack.handle)
        self._packs.clear()
        self._fingerprint = None
        self.stale = False

    @property
    def nbytes(self) -> int:
        """Bytes of all packed copies, as packed."""
        return sum(pack.nbytes for pack in self._packs.values())
