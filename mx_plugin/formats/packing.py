"""Codes of 4, 6 or 8 bits packed into bytes, row by row, little-endian: the first code lies lowest.

4 bits: the element of even index in the low nibble (OCP MX v1.0 leaves the order open; this is the
common one, also torch's float4_e2m1fn_x2). 6 bits: four elements in three bytes.
"""

from __future__ import annotations

import torch

from ..errors import FormatError
from .blocks import padded


def row_bytes(length: int, bits: int) -> int:
    """Bytes of one packed row of ``length`` codes: ceil(length * bits / 8)."""
    return -(-length * bits // 8)


def check_bits(bits: int) -> None:
    """Refuse widths that have no packing.

    Raises:
        FormatError: not 4, 6 or 8.
    """
    if bits not in (4, 6, 8):
        raise FormatError(f"no packing for elements of {bits} bits; valid: 4, 6, 8")


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack uint8 codes of shape (rows, length) into uint8 of shape (rows, row_bytes(length, bits)).

    Raises:
        FormatError: ``bits`` is not 4, 6 or 8.
    """
    check_bits(bits)
    if bits == 8:
        return codes.contiguous()
    rows, length = codes.shape
    if bits == 4:
        pairs = padded(codes, 1, 2).reshape(rows, -(-length // 2), 2)
        return pairs[..., 0] | (pairs[..., 1] << 4)
    a, b, c, d = padded(codes, 1, 4).reshape(rows, -(-length // 4), 4).unbind(-1)
    # uint8 shifts drop what leaves the byte, as wanted.
    packed = torch.stack((a | (b << 6), (b >> 2) | (c << 4), (c >> 4) | (d << 2)), dim=-1)
    return packed.view(rows, 3 * packed.shape[1])[:, : row_bytes(length, bits)].contiguous()


def unpack(packed: torch.Tensor, bits: int, length: int) -> torch.Tensor:
    """Undo :func:`pack`: uint8 codes of shape (rows, length).

    Raises:
        FormatError: ``bits`` is not 4, 6 or 8.
    """
    check_bits(bits)
    if bits == 8:
        return packed
    rows = packed.shape[0]
    if bits == 4:
        codes = torch.stack((packed & 0xF, packed >> 4), dim=-1).view(rows, 2 * packed.shape[1])
        return codes[:, :length].contiguous()
    triples = padded(packed, 1, 3)
    x, y, z = triples.reshape(rows, triples.shape[1] // 3, 3).unbind(-1)
    quads = (x & 0x3F, (x >> 6) | ((y << 2) & 0x3C), (y >> 4) | ((z << 4) & 0x30), z >> 2)
    codes = torch.stack(quads, dim=-1)
    return codes.view(rows, 4 * codes.shape[1])[:, :length].contiguous()
