"""``fake_quantize``: the cast as a differentiable function."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import FormatError
from . import hadamard as rht
from .cast import fake_quantize_
from .philox import StochasticKey
from .spec import Format


class _StraightThrough(torch.autograd.Function):
    """The gradient passes the rounding unchanged (Bengio, Leonard and Courville, 2013)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, fmt: str | Format, dim: int, options: dict[str, Any], key: StochasticKey | None
    ) -> torch.Tensor:
        ctx.dim, ctx.key = dim, key
        ctx.length = x.shape[dim] if key is not None else 0
        return _fake_quantize(x, fmt, dim, options, key, None)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.key is not None:
            grad = rht.inverse(grad, ctx.key, ctx.dim, ctx.length)
        return grad, None, None, None, None


def _fake_quantize(
    x: torch.Tensor,
    fmt: str | Format,
    dim: int,
    options: dict[str, Any],
    hadamard: StochasticKey | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    dtype = x.dtype
    if hadamard is not None:
        x = rht.transform(x, hadamard, dim, torch.float32)
    return fake_quantize_(x, fmt, dim, out=out, dtype=dtype, **options)


def fake_quantize(
    x: torch.Tensor,
    fmt: str | Format,
    dim: int = -1,
    *,
    rounding: str = "nearest",
    scale_rule: str = "floor",
    key: StochasticKey | None = None,
    hadamard: StochasticKey | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Quantise and decode: ``quantize(x, ...).dequantize()`` bit for bit, in x's dtype, differentiable.

    The gradient is straight-through: the identity everywhere, saturated values and NaN blocks
    included, so that a weight outside the range can come back. With ``hadamard`` the blocks are
    first turned by the random Hadamard transform (computed in float32, not rounded before the cast;
    its exact gradient is used); the size along ``dim`` is then rounded up to a multiple of 32.
    Stochastic rounding counts its elements in the tensor that is cast, i.e. the turned one.

    The result is written into ``out`` when given (the result's shape, any floating dtype).

    Raises:
        FormatError: as ``quantize``; ``out`` has another shape; or ``out`` is given while ``x``
            requires grad and gradients are on.
    """
    options = {"rounding": rounding, "scale_rule": scale_rule, "key": key}
    if x.requires_grad and torch.is_grad_enabled():
        if out is not None:
            raise FormatError("fake_quantize cannot write into out= and record a gradient: leave out, or use no_grad()")
        result: torch.Tensor = _StraightThrough.apply(x, fmt, dim, options, hadamard)  # type: ignore[no-untyped-call]
        return result
    return _fake_quantize(x, fmt, dim, options, hadamard, out)
