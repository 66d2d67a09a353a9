"""From tallies to work: MACs, bytes and casts by role, format and dtype as executed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch

from ..formats.spec import FP16
from ..interfaces import Work
from ..precision.formats import LayerFormats, Product
from .layer import AdoptedLayer
from .packing import Pack
from .tally import Tally

_Key = tuple[str, str, str]


class _Sum:
    __slots__ = ("activation_bytes", "cast_elements", "kv_bytes", "macs", "weight_bytes")

    def __init__(self) -> None:
        self.macs = self.weight_bytes = self.activation_bytes = self.kv_bytes = self.cast_elements = 0


def dtype_name(dtype: torch.dtype | None) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.") if dtype is not None else ""


class Collector:
    """Turns what layers counted into :class:`Work`. ``formats(layer, phase)`` is the engine's."""

    def __init__(self, formats: Callable[[AdoptedLayer, str], LayerFormats]) -> None:
        self._formats = formats
        self._notes: dict[int, tuple[LayerFormats, Pack | None]] = {}
        self._sums: dict[_Key, _Sum] = defaultdict(_Sum)

    def note(self, tally: Tally, layer: AdoptedLayer, formats: LayerFormats, pack: Pack | None) -> None:
        """From now on ``tally`` counts calls in these formats; what it counted before is booked first."""
        if tally.pending:
            self._book(layer, tally)
        self._notes[id(tally)] = (formats, pack)

    def packed(self, layer: AdoptedLayer, product: Product, dtype: torch.dtype) -> None:
        """A weight was packed for products in ``dtype``: its casts are work of the phase that needed it."""
        weight = layer.weight
        total = self._sums[(layer.role, str(product), dtype_name(dtype))]
        total.cast_elements += weight.numel()
        total.weight_bytes += weight.numel() * weight.element_size()

    def add(self, work: Work) -> None:
        """Work that no adopted layer sees, e.g. attention products."""
        total = self._sums[(work.role, work.format, work.dtype)]
        total.macs += work.macs
        total.weight_bytes += work.weight_bytes
        total.activation_bytes += work.activation_bytes
        total.kv_bytes += work.kv_bytes
        total.cast_elements += work.cast_elements

    def drain(self, layers: Iterable[AdoptedLayer], phase: str) -> list[Work]:
        """Everything executed in ``phase`` since the last drain."""
        for layer in layers:
            tally = layer.tallies.get(phase)
            if tally is not None and tally.pending:
                self._book(layer, tally)
        works = [
            Work(
                role,
                fmt,
                dtype,
                total.macs,
                total.weight_bytes,
                total.activation_bytes,
                total.kv_bytes,
                total.cast_elements,
            )
            for (role, fmt, dtype), total in self._sums.items()
        ]
        self._sums.clear()
        return works

    def _book(self, layer: AdoptedLayer, tally: Tally) -> None:
        formats, pack = self._notes.get(id(tally), (LayerFormats(), None))
        dtype = tally.dtype or layer.weight.dtype
        if pack is not None:
            dtype = pack.backend.product_dtype(dtype)
        weight_elements = layer.in_features * layer.out_features
        cast_weight = weight_elements if pack is None and not layer.released else 0
        wide = layer.in_features + layer.out_features
        for product, multiplied, calls, rows, cast_first, cast_second in (
            (
                formats.forward,
                dtype,
                tally.calls,
                tally.rows,
                cast_weight * tally.calls,
                layer.in_features * tally.rows,
            ),
            (
                formats.dgrad,
                tally.dgrad_dtype or dtype,
                tally.dgrad_calls,
                tally.dgrad_rows,
                cast_weight * tally.dgrad_calls,
                layer.out_features * tally.dgrad_rows,
            ),
            (
                formats.wgrad,
                tally.wgrad_dtype or dtype,
                0,
                tally.wgrad_rows,
                layer.in_features * tally.wgrad_rows,
                layer.out_features * tally.wgrad_rows,
            ),
        ):
            if not calls and not rows:
                continue
            weight_bytes = pack.read_bytes if pack is not None else weight_elements * multiplied.itemsize
            total = self._sums[(layer.role, str(product), dtype_name(multiplied))]
            total.macs += rows * weight_elements
            total.weight_bytes += calls * weight_bytes
            total.activation_bytes += rows * wide * multiplied.itemsize
            total.cast_elements += _cast_elements(product, cast_first, cast_second)
        tally.clear()


def _cast_elements(product: Product, first: int, second: int) -> int:
    return (first if product.pair.weights != FP16 else 0) + (second if product.pair.activations != FP16 else 0)
