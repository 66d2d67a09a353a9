"""A packed weight decoded once, in a dtype that holds its values exactly."""

from __future__ import annotations

import torch

from mx_plugin.errors import FormatError
from mx_plugin.formats import MXTensor


class DecodedWeight:
    """The handle of :class:`mx_cpu.reference.ReferenceBackend`: the weight (out, in), ready to multiply.

    ``tensor`` is None once the handle is closed. A call whose x has another dtype gets a second copy,
    made once, if the values are exact there too.
    """

    __slots__ = ("__weakref__", "_by_dtype", "device", "in_features", "out_features", "tensor")

    def __init__(self, packed: MXTensor) -> None:
        self.tensor: torch.Tensor | None = decode(packed)
        self.out_features, self.in_features = self.tensor.shape
        self.device = self.tensor.device
        self._by_dtype: dict[torch.dtype, torch.Tensor] = {self.tensor.dtype: self.tensor}

    def to_multiply(self, dtype: torch.dtype) -> torch.Tensor | None:
        """The weight in ``dtype``, or in its own wider dtype where that one would round it; None if closed.

        Raises:
            FormatError: not a floating dtype.
        """
        found = self._by_dtype.get(dtype)
        if found is None and self.tensor is not None:
            if not dtype.is_floating_point:
                raise FormatError(f"x is {dtype}; a linear layer multiplies floating-point numbers: convert it first")
            copy = self.tensor.to(dtype)
            found = self._by_dtype[dtype] = copy if _same(copy, self.tensor) else self.tensor
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of all copies held."""
        return sum(t.nbytes for t in {id(t): t for t in self._by_dtype.values()}.values())

    def close(self) -> None:
        """Free the copies; idempotent."""
        self.tensor = None
        self._by_dtype.clear()


def decode(packed: MXTensor) -> torch.Tensor:
    """Decode to the packed tensor's source dtype if its values are exact there, else to float32.

    bfloat16 has float32's range and more significant bits than any MX element, so away from the extreme
    scales it is always exact; float16 has less range, so there the copy is compared.
    """
    if decodes_to_source(packed):
        return packed.dequantize(packed.dtype)
    exact = packed.dequantize(torch.float32)
    copy = exact.to(packed.dtype)
    return copy if _same(copy, exact) else exact


def decodes_to_source(packed: MXTensor) -> bool:
    """True where it is certain, without decoding, that the source dtype is exact."""
    return packed.dtype == torch.float32 or (packed.dtype == torch.bfloat16 and not packed.has_extreme_scales)


def _same(copy: torch.Tensor, exact: torch.Tensor) -> bool:
    """Equal values; NaN, which a block with NaN decodes to, equals itself."""
    wide = copy.to(torch.promote_types(copy.dtype, exact.dtype))
    return bool(((wide == exact) | (wide.isnan() & exact.isnan())).all())
