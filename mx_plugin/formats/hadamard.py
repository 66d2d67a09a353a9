"""The random Hadamard transform of size 32 along one dimension.

y = H32 (s * x) / sqrt(32) for every 32 consecutive elements: H32 is Sylvester's Hadamard matrix, s
random signs (see ``philox``) that depend on the position along the dimension and on the key only, so
that both operands of a product get the same and the product is preserved: it is an orthogonal map.

Computed in float32 as five butterfly stages (a, b) -> (a + b, a - b) at distances 1, 2, 4, 8, 16, then
one multiplication by float32(32 ** -0.5): every operation is rounded alone, so all devices agree.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from ..errors import FormatError
from .blocks import checked_dim, padded, pieces, to_blocks
from .philox import SIGNS, StochasticKey, words

SIZE = 32
_NORM = SIZE**-0.5


def signs(n: int, key: StochasticKey, device: torch.device | str = "cpu") -> torch.Tensor:
    """Signs +1 or -1 of positions 0 .. n-1: float32 of shape (n,)."""
    drawn = words(key, -(-n // 32), device, domain=SIGNS)
    bits = (drawn[:, None] >> torch.arange(32, device=device)) & 1
    return (1 - 2 * bits.to(torch.float32)).view(-1)[:n]


def _butterflies(v: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
    """H32 along axis 1 of contiguous (groups, 32, after), not normalised; both arguments are overwritten."""
    groups, _, after = v.shape
    for distance in (1, 2, 4, 8, 16):
        pairs = (groups, SIZE // (2 * distance), 2, distance, after)
        source, target = v.view(pairs), spare.view(pairs)
        torch.add(source[:, :, 0], source[:, :, 1], out=target[:, :, 0])
        torch.sub(source[:, :, 0], source[:, :, 1], out=target[:, :, 1])
        v, spare = spare, v
    return v


@lru_cache(maxsize=8)
def _signs_once(n: int, key: StochasticKey, device: torch.device) -> torch.Tensor:
    """The two operands of a product ask for the same signs, one after the other."""
    return signs(n, key, device)


def _along(x: torch.Tensor, key: StochasticKey, dim: int) -> torch.Tensor:
    """Signs broadcast along ``dim`` of ``x``, whose size there is whole."""
    shape = [1] * x.dim()
    shape[dim] = x.shape[dim]
    return _signs_once(x.shape[dim], key, x.device).view(shape)


def _rotate(x: torch.Tensor, dim: int) -> torch.Tensor:
    """H32 / sqrt(32) along ``dim`` (whole) of float32 ``x``, which is left alone."""
    if x.numel() == 0:
        return x
    blocks = to_blocks(x, dim, SIZE)
    turned = torch.empty_like(blocks)
    for piece in pieces(blocks):
        # Where nothing comes after ``dim``, the 32 positions go first: all butterflies run over long rows.
        flat = blocks.dim() == 2
        some = blocks[piece].t().unsqueeze(0) if flat else blocks[piece]
        some = some.clone(memory_format=torch.contiguous_format)
        y = _butterflies(some, torch.empty_like(some)).mul_(_NORM)
        turned[piece] = y[0].t() if flat else y
    return turned.view(x.shape)


def _transform(x: torch.Tensor, key: StochasticKey, dim: int) -> torch.Tensor:
    v = padded(x.to(torch.float32), dim, SIZE)
    return _rotate(v * _along(v, key, dim), dim)


def _inverse(y: torch.Tensor, key: StochasticKey, dim: int, length: int) -> torch.Tensor:
    v = _rotate(y.to(torch.float32), dim)
    return v.mul_(_along(v, key, dim)).narrow(dim, 0, length)


class _Transform(torch.autograd.Function):
    """An orthogonal map: its gradient is its inverse."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, key: StochasticKey, dim: int) -> torch.Tensor:
        ctx.key, ctx.dim, ctx.length, ctx.dtype = key, dim, x.shape[dim], x.dtype
        return _transform(x, key, dim)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _inverse(grad, ctx.key, ctx.dim, ctx.length).to(ctx.dtype), None, None


def transform(x: torch.Tensor, key: StochasticKey, dim: int = -1, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Transform ``x`` along ``dim``; differentiable.

    The size along ``dim`` is rounded up to a multiple of 32, the tail taken as zeros: the result's
    tail is in general not zero and must take part in the product. Returned in ``dtype`` (default x's).

    Raises:
        FormatError: a tensor without dimensions, or ``dim`` out of range.
    """
    dim = checked_dim(x, dim)
    turned: torch.Tensor = _Transform.apply(x, key, dim)  # type: ignore[no-untyped-call]
    return turned.to(dtype or x.dtype)


def inverse(y: torch.Tensor, key: StochasticKey, dim: int = -1, length: int | None = None) -> torch.Tensor:
    """Undo :func:`transform` (also its transpose, hence its gradient) and keep ``length`` elements along ``dim``.

    ``y`` must be whole along ``dim``; the result has its dtype. Not differentiable.

    Raises:
        FormatError: a tensor without dimensions, ``dim`` out of range, or a size along ``dim`` that is
            not a multiple of 32.
    """
    dim = checked_dim(y, dim)
    if y.shape[dim] % SIZE:
        raise FormatError(f"size {y.shape[dim]} along dim {dim} is not a multiple of {SIZE}: not a transformed tensor")
    with torch.no_grad():
        return _inverse(y, key, dim, y.shape[dim] if length is None else length).to(y.dtype)
