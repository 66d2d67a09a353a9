"""The three products of a linear layer under MX: forward, dgrad, wgrad.

forward blocks X and W along ``in``; dX = dY W blocks dY and W along ``out``; dW = dY^T X blocks both
along flattened tokens (ragged tail allowed, padding tokens included). Every operand is cast from its
high-precision source, never re-quantised; gradients are straight-through (Bengio et al., 2013).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..formats.cast import StochasticKey
from ..formats.spec import FP16
from ..precision.formats import LayerFormats, Product
from .phases import TRACKER
from .released_weight import ReleasedWeight
from .tally import Tally

FakeQuantize = Callable[..., torch.Tensor]

_PRESCALE = 0.75
"""Stochastic rounding under ``floor`` saturates above the largest element; so the block keeps the scale
that ``floor`` gives it, its values are multiplied by 3/4, and the product is compensated (Tseng, Yu and
Park, "Training LLMs with MXFP4", 2025, algorithm 1). The scale that ``floor`` gives x is the one that
``rceil`` gives 3/4 x (but at exact powers of two, where it is one finer), hence the cast below."""


@dataclass(frozen=True)
class Keys:
    """Names the random stream of one layer: ``step`` and (in backward) ``call`` tell draws apart."""

    seed: int
    layer: str

    def at(self, product: str, step: int, call: int) -> StochasticKey:
        return StochasticKey.of(self.seed, step, self.layer, product, call)


class ProductCaster:
    """Casts a product's operands by its :class:`Product`, with whichever backend does the casting."""

    def __init__(self, formats: LayerFormats, fake_quantize: FakeQuantize, keys: Keys) -> None:
        self.formats = formats
        self.fake_quantize = fake_quantize
        self.keys = keys
        self.step = 0
        self.call = 0

    def operands(
        self, product: Product, name: str, call: int, first: tuple[torch.Tensor, int], second: tuple[torch.Tensor, int]
    ) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Cast both operands, each (tensor, reduction dim); also the factor owed to the product."""
        hadamard = self.keys.at(f"{name}/hadamard", self.step, call) if product.hadamard else None
        cast, factor = [], 1.0
        for side, fmt, (x, dim) in (
            ("first", product.pair.weights, first),
            ("second", product.pair.activations, second),
        ):
            if isinstance(x, ReleasedWeight):  # it holds MX values already, and has no other source to cast from
                x, fmt = x.decode(), FP16
            stochastic = product.rounding == "stochastic" and fmt != FP16
            scale_rule, dtype = product.scale_rule, x.dtype
            if stochastic and scale_rule == "floor":
                # In float32: 3/4 x rounded to bfloat16 would be a bias that no draw undoes.
                x, factor, scale_rule = x.float() * _PRESCALE, factor / _PRESCALE, "rceil"
            key = self.keys.at(f"{name}/{side}", self.step, call) if stochastic else None
            cast.append(self._cast(x, fmt, dim, scale_rule, key, hadamard).to(dtype))
        return cast[0], cast[1], factor

    def _cast(
        self,
        x: torch.Tensor,
        fmt: str,
        dim: int,
        scale_rule: str,
        key: StochasticKey | None,
        hadamard: StochasticKey | None,
    ) -> torch.Tensor:
        if fmt == FP16:
            if hadamard is None:
                return x
            from ..formats.hadamard import transform  # only a mixed pair under a transform comes here

            return transform(x, hadamard, dim)
        return self.fake_quantize(
            x,
            fmt,
            dim,
            rounding="nearest" if key is None else "stochastic",
            scale_rule=scale_rule,
            key=key,
            hadamard=hadamard,
        )


class MXLinearFunction(torch.autograd.Function):
    """Y = q(X) q(W)^T + b with MX backward products; X: (..., in), W: (out, in), Y: (..., out)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        caster: ProductCaster,
        tally: Tally,
        compute: torch.dtype | None,
    ) -> torch.Tensor:
        call = caster.call
        caster.call += 1
        # Not by call: a checkpoint computes this forward a second time, and must draw the same bits.
        w, a, factor = caster.operands(caster.formats.forward, "forward", 0, (weight, -1), (x, -1))
        if compute is not None:
            w, a, bias = w.to(compute), a.to(compute), None if bias is None else bias.to(compute)
        y = F.linear(a, w, bias if factor == 1.0 else None)
        if factor != 1.0:
            y = y * factor if bias is None else y * factor + bias
        ctx.save_for_backward(x, weight)
        ctx.caster, ctx.tally, ctx.call, ctx.compute = caster, tally, call, compute
        ctx.has_bias = bias is not None
        tally.dtype = y.dtype
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        TRACKER.saw_backward()
        x, weight = ctx.saved_tensors
        caster: ProductCaster = ctx.caster
        tally: Tally = ctx.tally
        rows = dy.numel() // dy.shape[-1] if dy.shape[-1] else 0
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = _dgrad(caster, ctx.call, dy, weight, ctx.compute).to(x.dtype).reshape(x.shape)
            tally.dgrad_rows += rows
            tally.dgrad_calls += 1
        if ctx.needs_input_grad[1]:
            dw = _wgrad(caster, ctx.call, dy, x, ctx.compute).to(weight.dtype)
            tally.wgrad_rows += rows
        if ctx.has_bias and ctx.needs_input_grad[2]:
            db = dy.reshape(-1, dy.shape[-1]).sum(0)
        return dx, dw, db, None, None, None


def _dgrad(
    caster: ProductCaster, call: int, dy: torch.Tensor, weight: torch.Tensor, compute: torch.dtype | None
) -> torch.Tensor:
    """dX = dY W, both blocked along ``out``; returns (..., in)."""
    w, g, factor = caster.operands(caster.formats.dgrad, "dgrad", call, (weight, 0), (dy, -1))
    product = torch.matmul(g if compute is None else g.to(compute), w if compute is None else w.to(compute))
    return product if factor == 1.0 else product * factor


def _wgrad(
    caster: ProductCaster, call: int, dy: torch.Tensor, x: torch.Tensor, compute: torch.dtype | None
) -> torch.Tensor:
    """dW = dY^T X, both blocked along flattened tokens; returns (out, in)."""
    tokens_x = x.reshape(-1, x.shape[-1])
    tokens_dy = dy.reshape(-1, dy.shape[-1])
    a, g, factor = caster.operands(caster.formats.wgrad, "wgrad", call, (tokens_x, 0), (tokens_dy, 0))
    if compute is not None:
        a, g = a.to(compute), g.to(compute)
    product = torch.matmul(g.t(), a)
    return product if factor == 1.0 else product * factor
