"""The three products of a linear layer under MX: forward, dgrad, wgrad.

forward blocks X and W along ``in``; dX = dY W blocks dY and W along ``out``; dW = dY^T X blocks both
along flattened tokens (ragged tail allowed, padding tokens included). Every operand is cast from its
high-precision source, never re-quantised; gradients are straight-through (Bengio et al., 2013).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..interfaces import MatrixProduct
from ..precision.formats import LayerFormats
from .operands import BindCast, Keys, Operands, lies_transposed
from .phases import TRACKER
from .scratch import FIRST, SECOND, Scratch
from .tally import Tally

_BFLOAT16 = torch.bfloat16
_FLOAT32 = torch.float32


class LayerProducts:
    """One layer's products in the formats that were chosen for it; shared by all of its calls.

    ``bind``: the casting backend's ``bind_cast``. ``narrow``: multiplies bfloat16 operands for a float32 model, or
    None. ``step`` and ``call`` name the draws; the engine and the forward pass count them. ``stride`` ranks count calls
    in turn: rank r makes calls r, r + stride, ...
    """

    def __init__(
        self, formats: LayerFormats, bind: BindCast, keys: Keys, scratch: Scratch, narrow: MatrixProduct | None = None
    ) -> None:
        self.formats = formats
        self._forward = Operands("forward", formats.forward, (-1, -1), bind, keys)
        self._dgrad = Operands("dgrad", formats.dgrad, (0, -1), bind, keys)
        self._wgrad = Operands("wgrad", formats.wgrad, (0, 0), bind, keys)
        self._scratch = scratch
        self._narrow = narrow
        self.step = 0
        self.call = 0
        self.stride = 1

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, compute: torch.dtype | None
    ) -> tuple[torch.Tensor, torch.dtype]:
        """Y = q(X) q(W)^T + b and the dtype that was multiplied; x: (tokens, in), weight: (out, in)."""
        operands = self._forward
        dtypes, narrow = self._dtypes(operands, weight, x, compute)
        workspace = self._scratch.borrow()
        try:
            # Not by call: a checkpoint computes this forward a second time, and must draw the same bits.
            w, a, factor = operands.cast(weight, x, dtypes, workspace, self.step, 0)
            if compute is not None and bias is not None:
                bias = bias.to(compute)
            if narrow is not None:
                y = narrow(a, w.t())
            else:
                y = F.linear(a, w, bias if factor == 1.0 else None)
        finally:
            self._scratch.give_back(workspace)
        if factor != 1.0:
            y *= factor
        if bias is not None and (factor != 1.0 or narrow is not None):
            y += bias
        return y, dtypes[1]

    def dgrad(
        self, dy: torch.Tensor, weight: torch.Tensor, compute: torch.dtype | None, call: int
    ) -> tuple[torch.Tensor, torch.dtype]:
        """dX = dY W, both blocked along ``out``, and the dtype that was multiplied; dy: (tokens, out)."""
        operands = self._dgrad
        dtypes, narrow = self._dtypes(operands, weight, dy, compute)
        workspace = self._scratch.borrow()
        try:
            w, g, factor = operands.cast(weight, dy, dtypes, workspace, self.step, call)
            dx = torch.mm(g, w) if narrow is None else narrow(g, w)
        finally:
            self._scratch.give_back(workspace)
        return dx if factor == 1.0 else dx.mul_(factor), dtypes[1]

    def wgrad(
        self, dy: torch.Tensor, x: torch.Tensor, compute: torch.dtype | None, call: int, transposed: bool = False
    ) -> tuple[torch.Tensor, torch.dtype]:
        """dW = dY^T X, both blocked along tokens, and the dtype that was multiplied; returns (out, in).

        ``transposed``: computed as X^T dY, so that it lies as a weight does that is stored (in, out).
        """
        operands = self._wgrad
        dtypes, narrow = self._dtypes(operands, x, dy, compute)
        multiply = torch.mm if narrow is None else narrow
        # oneDNN takes twice as long over 16-bit operands when the left one's rows do not lie along memory.
        turned = None if narrow is not None or dtypes[1].itemsize != 2 else FIRST if transposed else SECOND
        workspace = self._scratch.borrow()
        try:
            a, g, factor = operands.cast(x, dy, dtypes, workspace, self.step, call, turned)
            dw = multiply(a.t(), g).t() if transposed else multiply(g.t(), a)
        finally:
            self._scratch.give_back(workspace)
        return dw if factor == 1.0 else dw.mul_(factor), dtypes[1]

    def _dtypes(
        self, operands: Operands, first: torch.Tensor, second: torch.Tensor, compute: torch.dtype | None
    ) -> tuple[tuple[torch.dtype, torch.dtype], MatrixProduct | None]:
        """What each operand is cast to, and what multiplies them if not torch."""
        if compute is not None:
            return (compute, compute), None
        dtypes = (first.dtype, second.dtype)
        if self._narrow is not None and operands.narrow and dtypes == (_FLOAT32, _FLOAT32):
            return (_BFLOAT16, _BFLOAT16), self._narrow
        return dtypes, None


class MXLinearFunction(torch.autograd.Function):
    """Y = q(X) q(W)^T + b with MX backward products; X: (..., in), W: (out, in), Y: (..., out)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        products: LayerProducts,
        tally: Tally,
        compute: torch.dtype | None,
    ) -> torch.Tensor:
        ctx.products, ctx.tally, ctx.compute, ctx.call = products, tally, compute, products.call
        products.call += products.stride
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        flat = x.dim() == 2
        y, tally.dtype = products.forward(x if flat else x.reshape(-1, x.shape[-1]), weight, bias, compute)
        return y if flat else y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        TRACKER.saw_backward()
        x, weight = ctx.saved_tensors
        products: LayerProducts = ctx.products
        tally: Tally = ctx.tally
        needs_dx, needs_dw, needs_db, *_ = ctx.needs_input_grad
        if dy.dim() != 2:
            dy = dy.reshape(-1, dy.shape[-1])
        rows = dy.shape[0]
        dx = dw = db = None
        if needs_dx:
            dx, tally.dgrad_dtype = products.dgrad(dy, weight, ctx.compute, ctx.call)
            dx = dx.to(x.dtype).view(x.shape)
            tally.dgrad_rows += rows
            tally.dgrad_calls += 1
        if needs_dw:
            tokens = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
            dw, tally.wgrad_dtype = products.wgrad(dy, tokens, ctx.compute, ctx.call, lies_transposed(weight))
            dw = dw.to(weight.dtype)
            tally.wgrad_rows += rows
        if needs_db and ctx.has_bias:
            db = dy.sum(0)
        return dx, dw, db, None, None, None
