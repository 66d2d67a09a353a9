"""MXTensor: a tensor in an MX format, really packed."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import FormatError, nearest
from .blocks import Layout, padded
from .decode import NAN_SCALE, element_table, scale_table
from .packing import pack, row_bytes, unpack
from .spec import Element, Format, get_format

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Source dtypes that the cast takes, by the names used in files."""


class MXTensor:
    """Packed elements and their E8M0 scales; made by ``quantize`` or :meth:`from_codes`.

    ``elements``: uint8 of shape (rows, ceil(K * bits / 8)), ``scales``: uint8 of shape (rows, nblocks);
    both with the blocked dimension (of size K) moved last and the others flattened into rows.
    Bits within a row are little-endian (see ``packing``). Not a ``torch.Tensor``; treat it as
    immutable.
    """

    __slots__ = ("_extreme", "_layout", "dtype", "elements", "format", "scales")

    def __init__(
        self, elements: torch.Tensor, scales: torch.Tensor, fmt: str | Format, shape: Any, dim: int, dtype: torch.dtype
    ) -> None:
        """Take packed parts as they are.

        Raises:
            FormatError: the parts do not have the sizes that the shape demands, or ``dtype`` is not
                float32, bfloat16 or float16.
        """
        self.format = get_format(fmt)
        shape = torch.Size(shape)
        if not -len(shape) <= dim < len(shape):
            raise FormatError(f"dim {dim} is out of range for shape {tuple(shape)}")
        self._layout = Layout(shape, dim % len(shape), self.format.block_size)
        self.elements, self.scales, self.dtype = elements, scales, dtype
        self._extreme: bool | None = None
        if dtype not in DTYPES.values():
            raise FormatError(f"dtype {dtype} is not a source dtype; valid: {', '.join(DTYPES)}")
        layout = self._layout
        wanted = (layout.rows, row_bytes(layout.length, self.format.element.bits)), (layout.rows, layout.blocks)
        for name, part, size in (("elements", elements, wanted[0]), ("scales", scales, wanted[1])):
            if part.dtype != torch.uint8 or tuple(part.shape) != size:
                raise FormatError(
                    f"{name} of {self.format} {tuple(shape)} along dim {dim} must be uint8 {size}, "
                    f"not {part.dtype} {tuple(part.shape)}"
                )

    @classmethod
    def from_codes(
        cls,
        element_codes: torch.Tensor,
        scale_codes: torch.Tensor,
        fmt: str | Format,
        dim: int = -1,
        dtype: torch.dtype = torch.float32,
    ) -> MXTensor:
        """Pack codes: uint8 of the tensor's shape, and uint8 with ceil(K / block) entries along ``dim``.

        Codes that a cast never produces (NaN, infinities, INT8's -2) are kept and decode as specified.

        Raises:
            FormatError: shapes or dtypes do not fit, or a code is wider than the element.
        """
        form = get_format(fmt)
        bits = form.element.bits
        if element_codes.dtype != torch.uint8 or scale_codes.dtype != torch.uint8:
            raise FormatError(f"codes must be uint8, not {element_codes.dtype} and {scale_codes.dtype}")
        shape = element_codes.shape
        if not -len(shape) <= dim < len(shape):
            raise FormatError(f"dim {dim} is out of range for shape {tuple(shape)}")
        layout = Layout(shape, dim % len(shape), form.block_size)
        if scale_codes.shape != layout.scales:
            raise FormatError(f"scale codes must have shape {tuple(layout.scales)}, not {tuple(scale_codes.shape)}")
        if bits < 8 and element_codes.numel() and int(element_codes.max()) >> bits:
            raise FormatError(f"element code {int(element_codes.max())} is wider than the {bits} bits of {form}")
        elements = pack(_rows(element_codes, layout, layout.length), bits)
        scales = _rows(scale_codes, layout, layout.blocks).contiguous()
        return cls(elements, scales, form, shape, dim, dtype)

    @property
    def shape(self) -> torch.Size:
        return self._layout.shape

    @property
    def dim(self) -> int:
        """The blocked dimension, counted from the front."""
        return self._layout.dim

    @property
    def device(self) -> torch.device:
        return self.elements.device

    @property
    def nbytes(self) -> int:
        """Bytes of packed elements and scales."""
        return self.elements.numel() + self.scales.numel()

    def numel(self) -> int:
        """Number of elements."""
        return self.shape.numel()

    def element_codes(self) -> torch.Tensor:
        """One uint8 per element, in the original shape."""
        return _unrows(self._codes(), self._layout)

    def scale_codes(self) -> torch.Tensor:
        """E8M0 codes: uint8 of the original shape but with ceil(K / block) entries along ``dim``."""
        return _unrows(self.scales, self._layout)

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Decode to the original shape, in ``dtype`` (default: the source's).

        Values are exact in float32 unless they exceed it (2**128 is then infinite); the step to a
        narrower dtype rounds to nearest, ties to even.
        """
        codes = self._codes()
        table = element_table(self.format.element, self.device)
        values = table.index_select(0, codes.reshape(-1).to(torch.int32)).view(codes.shape)
        scales = scale_table(self.device).index_select(0, self.scales.reshape(-1).to(torch.int32))
        rows, length, block = self._layout.rows, self._layout.length, self.format.block_size
        scales = scales.view(rows, self._layout.blocks, 1)
        if length % block == 0:
            values.view(rows, self._layout.blocks, block).mul_(scales)
        else:
            whole = padded(values, 1, block).view(rows, self._layout.blocks, block)
            values = (whole * scales).view(rows, self._layout.blocks * block)[:, :length]
        return _unrows(values.to(dtype or self.dtype), self._layout)

    @property
    def has_extreme_scales(self) -> bool:
        """True when bfloat16 arithmetic that flushes subnormals cannot take these values exactly.

        That is: a NaN block (code 255), or a block - other than one of zeros - whose scale makes the
        smallest element subnormal in float32, or the largest one overflow. Such tensors need a
        kernel's exact path.
        """
        if self._extreme is None:
            self._extreme = self.has_scales_outside(*ordinary_scales(self.format.element))
        return self._extreme

    def has_scales_outside(self, low: int, high: int) -> bool:
        """Whether any block, other than one of zeros, is NaN or has an E8M0 code outside low .. high."""
        outside = (self.scales < low) | (self.scales > high)
        if not outside.any():
            return False
        element, block = self.format.element, self.format.block_size
        magnitude = self._codes() & (0xFF if element.is_integer else (1 << (element.bits - 1)) - 1)
        nonzero = padded(magnitude, 1, block).view(*self.scales.shape, block).any(-1)
        return bool((outside & (nonzero | (self.scales == NAN_SCALE))).any())

    def to(self, device: torch.device | str) -> MXTensor:
        """The same tensor on another device; itself when it is there already."""
        elements = self.elements.to(device)
        if elements is self.elements:
            return self
        return MXTensor(elements, self.scales.to(device), self.format, self.shape, self.dim, self.dtype)

    def equal(self, other: MXTensor) -> bool:
        """Same format, shape, dim, source dtype, and the same bits."""
        return (
            (self.format, self._layout, self.dtype) == (other.format, other._layout, other.dtype)
            and torch.equal(self.elements, other.elements)
            and torch.equal(self.scales, other.scales)
        )

    def __repr__(self) -> str:
        return (
            f"MXTensor({self.format}, shape={tuple(self.shape)}, dim={self.dim}, from {dtype_name(self.dtype)}, "
            f"{self.nbytes} bytes, device={str(self.device)!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Plain tensors, strings and integers: what ``torch.load(weights_only=True)`` accepts."""
        return {
            "elements": self.elements,
            "scales": self.scales,
            "format": self.format.name,
            "shape": tuple(self.shape),
            "dim": self.dim,
            "dtype": dtype_name(self.dtype),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(  # type: ignore[misc]
            state["elements"], state["scales"], state["format"], state["shape"], state["dim"], dtype_of(state["dtype"])
        )

    def _codes(self) -> torch.Tensor:
        return unpack(self.elements, self.format.element.bits, self._layout.length)


def ordinary_scales(element: Element) -> tuple[int, int]:
    """Lowest and highest E8M0 code at which every element value is zero or normal in float32."""
    return max(1 - (element.emin - element.mantissa_bits), 0), 254 - element.emax


def dtype_name(dtype: torch.dtype) -> str:
    """``"bfloat16"`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    """The source dtype of that name.

    Raises:
        FormatError: not float32, bfloat16 or float16.
    """
    if name not in DTYPES:
        raise FormatError(f"unknown source dtype {name!r}: {nearest(name, DTYPES)}")
    return DTYPES[name]


def _rows(x: torch.Tensor, layout: Layout, length: int) -> torch.Tensor:
    """Blocked dimension last, the others flattened: (rows, length)."""
    return x.movedim(layout.dim, -1).reshape(layout.rows, length)


def _unrows(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Undo :func:`_rows`, contiguous."""
    others = layout.shape[: layout.dim] + layout.shape[layout.dim + 1 :]
    return x.reshape(*others, x.shape[1]).movedim(-1, layout.dim).contiguous()


torch.serialization.add_safe_globals([MXTensor])
