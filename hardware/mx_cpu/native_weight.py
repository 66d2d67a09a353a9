"""A packed weight as the native kernels read it: no second copy."""

from __future__ import annotations

import ctypes

import torch

from mx_plugin.formats import MXTensor, get_format
from mx_plugin.formats.rules import cast_rule
from mx_plugin.formats.spec import FP16
from mx_plugin.formats.tensor import ordinary_scales

from .library import BLOCK, Library, Linear, Rule, table_of


def native_format(fmt: str) -> bool:
    """Whether the kernels know this format: blocks of 32, E8M0 scales, elements of 4, 6 or 8 bits."""
    if fmt == FP16:
        return True
    form = get_format(fmt)
    return form.block_size == BLOCK and form.scale_type == "E8M0" and form.element.bits in (4, 6, 8)


SMALLEST_FACTOR = -63
"""Exponent of the smallest nonzero factor, weight or activation, in a bfloat16 product (``native/activations.hpp``):
the processor flushes products below 2**-126."""


class NativeWeight:
    """The handle of :class:`mx_cpu.native_backend.NativeBackend`. ``packed`` is None once it is closed.

    ``exact``: the weight has extreme scales or codes that no cast makes, so products take the exact path.
    """

    __slots__ = ("__weakref__", "_jobs", "exact", "in_features", "known", "out_features", "packed")

    def __init__(self, packed: MXTensor, native: Library) -> None:
        self.known = native_format(packed.format.name)
        self.packed: MXTensor | None = _contiguous(packed)
        self.out_features, self.in_features = packed.shape
        self._jobs: dict[tuple[str, str], Linear] = {}
        self.exact = not self.known
        if self.known and packed.numel():
            rule = Rule.of(cast_rule(packed.format))
            self.exact = packed.has_scales_outside(*_scales(packed)) or native.has_special_codes(
                rule, self.packed.elements
            )

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self.packed is None else self.packed.nbytes

    def job(self, activations: str, scale_rule: str) -> int:
        """Address of the C struct for one way to cast activations; it lives as long as this handle."""
        key = (activations, scale_rule)
        found = self._jobs.get(key)
        if found is None:
            found = self._jobs[key] = self._make(activations, scale_rule)
        return ctypes.addressof(found)

    def _make(self, activations: str, scale_rule: str) -> Linear:
        packed = self.packed
        assert packed is not None
        job = Linear()
        job.weight_rule = Rule.of(cast_rule(packed.format))
        if activations != FP16:
            job.activation_rule = Rule.of(cast_rule(activations, "nearest", scale_rule))
        job.quantised = activations != FP16
        job.table = table_of(packed.format.element).data_ptr()
        job.elements, job.scales = packed.elements.data_ptr(), packed.scales.data_ptr()
        job.out_features, job.in_features = self.out_features, self.in_features
        job.exact = self.exact
        return job

    def close(self) -> None:
        """Free the memory; idempotent. A call that still runs keeps what it reads."""
        self.packed = None  # not the jobs: what is bound to this handle has their addresses


def _scales(packed: MXTensor) -> tuple[int, int]:
    """Lowest and highest scale code whose smallest and largest elements the bfloat16 products take exactly."""
    element = packed.format.element
    low, high = ordinary_scales(element)
    return max(low, 127 + SMALLEST_FACTOR - (element.emin - element.mantissa_bits)), high


def _contiguous(packed: MXTensor) -> MXTensor:
    if packed.elements.is_contiguous() and packed.scales.is_contiguous():
        return packed
    parts: tuple[torch.Tensor, torch.Tensor] = (packed.elements.contiguous(), packed.scales.contiguous())
    return MXTensor(*parts, packed.format, packed.shape, packed.dim, packed.dtype)
