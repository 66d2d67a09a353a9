"""The reference cast: ``quantize`` to packed codes and ``fake_quantize_`` to values, one arithmetic for both."""

from __future__ import annotations

import torch

from ..errors import FormatError
from .arithmetic import cast_codes, cast_values
from .blocks import AT_ONCE, Layout, checked_dim, from_blocks, pieces, to_blocks
from .philox import StochasticKey, thresholds
from .rules import CastRule, cast_rule
from .spec import Format
from .tensor import DTYPES, MXTensor

__all__ = ["StochasticKey", "fake_quantize_", "quantize"]

_FLOATS = frozenset(DTYPES.values())


def _check_input(x: torch.Tensor, rule: CastRule, key: StochasticKey | None) -> None:
    if x.dtype not in _FLOATS:
        advice = (
            "convert it with x.float(); that rounds, so it is left to you"
            if x.dtype == torch.float64
            else "convert it to float32 first"
        )
        raise FormatError(f"cannot cast {x.dtype} to {rule.format}: float32, bfloat16 and float16 only; {advice}")
    if rule.stochastic and key is None:
        raise FormatError("rounding='stochastic' needs key=StochasticKey(seed, step, stream): it never draws by itself")


def _thresholds(x: torch.Tensor, rule: CastRule, key: StochasticKey | None, dim: int) -> torch.Tensor | None:
    """Thresholds by linear index of the unpadded ``x``, in the shape of its blocks."""
    if not rule.stochastic or key is None:
        return None
    return to_blocks(thresholds(key, x.shape, x.device), dim, rule.block_size)


@torch.no_grad()
def quantize(
    x: torch.Tensor,
    fmt: str | Format,
    dim: int = -1,
    rounding: str = "nearest",
    scale_rule: str = "floor",
    key: StochasticKey | None = None,
) -> MXTensor:
    """Cast ``x`` (float32, bfloat16 or float16, any shape) to packed blocks along ``dim``.

    Bit-exact to OCP MX v1.0, section 6.3: a shared scale from the largest magnitude, then elements
    rounded (nearest, ties to even; or stochastically, see ``philox``) and saturated. A ragged last
    block is padded with zeros that are not stored. Where the specification leaves a choice: a block
    with a NaN or an infinity decodes to NaN; MXINT8 saturates symmetrically, at -127/64; a block of
    zeros gets scale code 0. Not differentiable: see ``fake_quantize``.

    ``scale_rule``: ``floor``, the specification's 2**(floor(log2(amax)) - emax); ``rceil``, the
    smallest power of two s with amax / s <= max, so that nothing saturates; ``even``, floor after
    rounding amax to the element's mantissa.

    Raises:
        FormatError: unknown format, rounding or scale rule, a dtype that is not taken, ``dim`` out of
            range, a tensor without dimensions, or stochastic rounding without a key.
    """
    rule = cast_rule(fmt, rounding, scale_rule)
    _check_input(x, rule, key)
    layout = Layout(x.shape, checked_dim(x, dim), rule.block_size)
    if x.numel() == 0:
        empty = torch.empty(0, dtype=torch.uint8, device=x.device)
        codes, scales = empty.view(layout.shape), empty.new_zeros(layout.scales)
        return MXTensor.from_codes(codes, scales, rule.format, dim, x.dtype)
    blocks = to_blocks(x, layout.dim, layout.block)
    drawn = _thresholds(x, rule, key, layout.dim)
    codes = torch.empty_like(blocks, dtype=torch.uint8)
    scales = torch.empty((blocks.shape[0], 1, *blocks.shape[2:]), dtype=torch.uint8, device=x.device)
    for piece in pieces(blocks):
        some = None if drawn is None else drawn[piece]
        codes[piece], scales[piece] = cast_codes(blocks[piece].to(torch.float32), rule, some)
    return MXTensor.from_codes(from_blocks(codes, layout), scales.view(layout.scales), rule.format, dim, x.dtype)


def fake_quantize_(
    x: torch.Tensor,
    fmt: str | Format,
    dim: int = -1,
    *,
    rounding: str = "nearest",
    scale_rule: str = "floor",
    key: StochasticKey | None = None,
    out: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """``quantize(x, ...).dequantize(dtype)`` bit for bit, without codes and without autograd.

    The result has x's shape; it is a new contiguous tensor in ``dtype`` (default x's), or ``out``
    (x's shape, any floating dtype and strides). The underscore: a core for kernels; ``x`` is not
    written unless it is also ``out``. Call it with gradients off when ``x`` requires grad.

    Raises:
        FormatError: as ``quantize``; or ``out`` has another shape.
    """
    rule = cast_rule(fmt, rounding, scale_rule)
    _check_input(x, rule, key)
    dim = checked_dim(x, dim)
    if out is not None and out.shape != x.shape:
        raise FormatError(f"out has shape {tuple(out.shape)}, the result {tuple(x.shape)}")
    wanted = dtype or x.dtype
    count = x.numel()
    if count <= AT_ONCE and count and not rule.stochastic and out is None and x.shape[dim] % rule.block_size == 0:
        blocks = to_blocks(x if x.dtype == torch.float32 else x.to(torch.float32), dim, rule.block_size)
        y = cast_values(blocks, rule).view(x.shape)
        return y if wanted == torch.float32 else y.to(wanted)
    return _fake_quantize_pieces(x, rule, dim, key, out, wanted)


def _fake_quantize_pieces(
    x: torch.Tensor,
    rule: CastRule,
    dim: int,
    key: StochasticKey | None,
    out: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The general case of :func:`fake_quantize_`: ragged, large, stochastic, or into ``out``."""
    if x.numel() == 0:
        return torch.empty(x.shape, dtype=dtype, device=x.device) if out is None else out
    whole = x.shape[dim] % rule.block_size == 0
    blocks = to_blocks(x, dim, rule.block_size)
    drawn = _thresholds(x, rule, key, dim)
    direct = out is not None and whole and out.is_contiguous()
    result = out.view(blocks.shape) if direct and out is not None else torch.empty_like(blocks, dtype=dtype)
    for piece in pieces(blocks):
        some = None if drawn is None else drawn[piece]
        source = blocks[piece].to(torch.float32)
        if result.dtype == torch.float32:
            cast_values(source, rule, some, out=result[piece])
        else:
            result[piece] = cast_values(source, rule, some)
    if direct and out is not None:
        return out
    y = from_blocks(result, Layout(x.shape, dim, rule.block_size))
    return y if out is None else out.copy_(y)
