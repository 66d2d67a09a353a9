"""A packed weight on a device: no second copy of its elements."""

from __future__ import annotations

import torch

from mx_plugin.formats import MXTensor
from mx_plugin.formats.decode import element_table
from mx_plugin.formats.rules import cast_rule

from . import scaled
from .casting import known


class PackedWeight:
    """The handle of :class:`mx_cuda.backend.CudaBackend`. ``packed`` is None once it is closed.

    ``known``: the kernels read this format. ``ordinary``: every value is exact and normal in bfloat16, so that a
    decoded copy may be multiplied there. ``swizzled``: a second copy of the scales, for the card's own MX products;
    None where it has none.
    """

    __slots__ = ("__weakref__", "in_features", "known", "ordinary", "out_features", "packed", "swizzled")

    def __init__(self, packed: MXTensor) -> None:
        elements, scales = packed.elements.contiguous(), packed.scales.contiguous()
        self.packed: MXTensor | None = MXTensor(elements, scales, packed.format, packed.shape, packed.dim, packed.dtype)
        self.out_features, self.in_features = packed.shape
        self.known = packed.format.scale_type == "E8M0" and known(cast_rule(packed.format))
        self.ordinary = self.known and not self.packed.has_extreme_scales and not _has_special_codes(self.packed)
        native = scaled.takes(packed) and scaled.serves(packed.device)
        self.swizzled: torch.Tensor | None = scaled.swizzled(scales) if native else None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        swizzled = 0 if self.swizzled is None else self.swizzled.nbytes
        return 0 if self.packed is None else self.packed.nbytes + swizzled

    def close(self) -> None:
        """Free the memory; idempotent. A call that still runs keeps what it reads."""
        self.packed = self.swizzled = None


def _has_special_codes(packed: MXTensor) -> bool:
    """Whether a code stands for NaN or an infinity, which only 8-bit elements have and no cast makes."""
    if packed.format.element.bits < 8 or not packed.numel():
        return False
    special = ~element_table(packed.format.element, packed.device).isfinite()
    return bool(special.any()) and bool(special[packed.elements.to(torch.int32)].any())
