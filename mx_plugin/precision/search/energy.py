"""The objective ``energy``: joules of one training step, modelled from the work that a format makes a layer do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch

from ...errors import MXError
from ...execution.product_dtype import narrow_product
from ...formats.spec import FP16, get_format
from ...formats.tensor import DTYPES, MXTensor, dtype_name
from ...interfaces import Backend, Work
from ...ledger.modelled import ModelledMeter
from ..entry import layer_formats
from ..formats import Product
from .objective import Objective, Place
from .problem import entry_of
from .recipe import Recipe
from .shapes import Shape

TRAINED = ("policy", "value")
"""Roles whose weights change every step, so that what a phase has packed is packed anew."""


class EnergyObjective(Objective):
    """Joules of one step of ``recipe``, by a meter's table and target: arithmetic, bytes moved, casts.

    The work is counted as the ledger counts it when it runs (``execution/work.py``). ``backend`` tells the dtype that
    it multiplies and the bytes that it reads of a packed weight. Attention, norms and everything else that no policy
    chooses is left out.

    Raises:
        MXError: from ``price``, where the energy table lacks a dtype or format.
    """

    name = "energy"
    unit = "J/step"

    def __init__(self, meter: ModelledMeter, recipe: Recipe, backend: Backend, scale_rule: str = "rceil") -> None:
        self.meter, self.recipe, self.backend, self.scale_rule = meter, recipe, backend, scale_rule
        self._weight_bytes = cache(self._read_of_weight)

    def price(self, place: Place, format: str) -> float:
        """See the class."""
        total = 0.0
        for work in self.works(place, format):
            estimate = self.meter.estimate(work)
            if estimate.joules is None:
                raise MXError(f"no energy for {format} in {place.phase}, layer {place.layer!r}: {estimate.why}")
            total += estimate.joules
        return total

    def bounds(self, place: Place, format: str) -> tuple[float, float, float]:
        """(low, mid, high) joules, every term at the same end of the table's range."""
        ranges = [self.meter.bounds(work) for work in self.works(place, format)]
        low, mid, high = (sum(each[end] for each in ranges if each is not None) for end in range(3))
        return low, mid, high

    def notes(self) -> list[str]:
        source = f"{self.meter.source}, {self.meter.table.path.name}"
        return [f"energy is modelled ({source}), not measured; one step: {self.recipe}"]

    def works(self, place: Place, format: str) -> Iterator[Work]:
        """What one step executes: for each layer, number of rows and product."""
        formats = layer_formats(entry_of(format, place.forward_only), place.phase, FP16, self.scale_rule)
        for shape in place.shapes:
            if place.phase == "gradient":
                yield from self._training(place, shape, formats.forward, formats.dgrad, formats.wgrad)
            else:
                yield from self._inference(place, shape, formats.forward)

    def _inference(self, place: Place, shape: Shape, product: Product) -> Iterator[Work]:
        model_dtype, fmt = DTYPES[shape.dtype], product.pair.weights
        packed = product.pair.quantised
        dtype = self.backend.product_dtype(model_dtype) if packed else model_dtype
        weight_bytes = self._weight_bytes(shape, fmt) if fmt != FP16 else shape.elements * dtype.itemsize
        for rows, calls in self.recipe.calls(place.phase, place.layer):
            cast = rows * shape.in_features if product.pair.activations != FP16 else 0
            yield self._work(place, shape, product, dtype, calls, rows, weight_bytes, cast)
        if fmt != FP16 and place.role in TRAINED:
            yield Work(
                place.role,
                str(product),
                dtype_name(dtype),
                weight_bytes=shape.elements * model_dtype.itemsize,
                cast_elements=shape.elements,
            )

    def _training(self, place: Place, shape: Shape, forward: Product, dgrad: Product, wgrad: Product) -> Iterator[Work]:
        """The three products; weights are cast at every call, along ``in`` for Y and along ``out`` for dX."""
        model_dtype = DTYPES[shape.dtype]
        for rows, calls in self.recipe.calls(place.phase, place.layer):
            tokens_in, tokens_out = rows * shape.in_features, rows * shape.out_features
            for product, reads, first, second in (
                (forward, 1, shape.elements, tokens_in),
                (dgrad, 1, shape.elements, tokens_out),
                (wgrad, 0, tokens_in, tokens_out),
            ):
                weights, activations = product.pair.weights != FP16, product.pair.activations != FP16
                dtype = self._narrow(model_dtype) if weights and activations else model_dtype
                cast = first * weights + second * activations
                read = reads * shape.elements * dtype.itemsize
                yield self._work(place, shape, product, dtype, calls, rows, read, cast)

    def _narrow(self, model_dtype: torch.dtype) -> torch.dtype:
        """What training multiplies where both operands are in an MX format (``gradient_product_dtype="auto"``)."""
        narrow = narrow_product("auto", self.backend, torch.empty(0, dtype=model_dtype))
        return torch.bfloat16 if narrow is not None else model_dtype

    def _work(
        self,
        place: Place,
        shape: Shape,
        product: Product,
        dtype: torch.dtype,
        calls: int,
        rows: int,
        weight_bytes: int,
        cast_elements: int,
    ) -> Work:
        return Work(
            place.role,
            str(product),
            dtype_name(dtype),
            macs=calls * rows * shape.elements,
            weight_bytes=calls * weight_bytes,
            activation_bytes=calls * rows * (shape.in_features + shape.out_features) * dtype.itemsize,
            cast_elements=calls * cast_elements,
        )

    def _read_of_weight(self, shape: Shape, format: str) -> int:
        """Bytes that one call reads of a packed weight: the backend says so when it is shown one (of zeros)."""
        fmt, dtype = get_format(format), DTYPES[shape.dtype]
        codes = torch.zeros(shape.out_features, shape.in_features, dtype=torch.uint8)
        blocks = -(-shape.in_features // fmt.block_size)
        scales = torch.full((shape.out_features, blocks), 127, dtype=torch.uint8)
        return self.backend.weight_bytes(MXTensor.from_codes(codes, scales, fmt, dtype=dtype), dtype)
