"""The training products of an engine's layers: what they share."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from ..interfaces import Backend
from ..precision.formats import LayerFormats
from .layer import AdoptedLayer
from .operands import Keys, bind_reference_cast
from .product_dtype import checked_choice, describe_products, narrow_product
from .products import LayerProducts
from .scratch import Scratch

log = logging.getLogger(__name__)


class TrainingProducts:
    """Makes layers' products, names their draws and lends them scratch memory.

    Args:
        seed: of stochastic rounding.
        dtype: what a float32 model multiplies, see :mod:`product_dtype`.
        rank, ranks: this process among those that train together. Micro-batches are counted over all of them, so
            that one draws the same bits on whichever rank it runs.

    Raises:
        PolicyError: ``dtype`` is not a choice.
    """

    def __init__(self, seed: int, dtype: str, rank: int = 0, ranks: int = 1) -> None:
        self.scratch = Scratch()
        self.seed = seed
        self._dtype = checked_choice(dtype)
        self._rank, self._ranks = rank, ranks
        self._step = 0
        self._made: list[LayerProducts] = []

    def of(self, layer: AdoptedLayer, formats: LayerFormats, backend: Backend) -> LayerProducts:
        """The products of ``layer`` in ``formats``, cast by ``backend``."""
        bind = backend.bind_cast
        if not backend.capabilities.fake_quantize:
            log.info("backend %s has no fake_quantize: %s is cast by the reference", backend.name, layer.name)
            bind = bind_reference_cast
        keys = Keys(self.seed, f"{layer.role}/{layer.name}")
        narrow = narrow_product(self._dtype, backend, layer.weight)
        made = LayerProducts(formats, bind, keys, self.scratch, narrow)
        made.step, made.call, made.stride = self._step, self._rank, self._ranks
        self._made.append(made)
        return made

    def advance(self, step: int) -> None:
        """A training step begins: stochastic rounding draws from its stream."""
        self._step = step
        for products in self._made:
            products.step, products.call = step, self._rank

    @property
    def count(self) -> int:
        """How many layers' products are followed."""
        return len(self._made)

    def forget(self, known: int = 0) -> None:
        """Follow only the first ``known``; the others are freed with the routes that hold them."""
        del self._made[known:]

    def describe(self, trained: Iterable[tuple[Backend, AdoptedLayer]]) -> dict[str, Any]:
        """What these layers multiply, and the scratch memory held now, in bytes: plain data for config.json."""
        weights = ((backend, layer.weight) for backend, layer in trained)
        return {
            "dtype": self._dtype,
            "layers": describe_products(self._dtype, weights),
            "scratch_bytes": self.scratch.nbytes,
        }
