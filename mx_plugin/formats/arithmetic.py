"""The arithmetic of the reference cast, on blocks: float32 of shape (groups, block[, after]), axis 1 blocked.

Exact throughout: scales come from the bits of amax, multiplying by a power of two is exact, an
element counted in its quantum has at most 24 bits. Sources: OCP MX v1.0, sections 5.3 (elements), 5.4
(E8M0) and 6.3 (the cast). Assumes gradual underflow, torch's default; under
``torch.set_flush_denormal(True)`` only blocks with extreme scales change (see ``MXTensor``).
"""

from __future__ import annotations

import torch

from .rules import CastRule

_EXPONENT = 0x7F800000
_SIGN_AND_EXPONENT = -0x800000
_LEAST_SCALE = 0x00400000
"""Bits of 2**-127, E8M0 code 0, a float32 subnormal."""
_LARGEST_SCALE = 0x7F000000
"""Bits of 2**127, E8M0 code 254."""


def block_scales(amax: torch.Tensor, rule: CastRule) -> torch.Tensor:
    """Scale of each block, a power of two in 2**-127 .. 2**127, as int32 bits of a float32.

    Of no meaning where amax is not finite.
    """
    bits = (amax + amax if rule.doubled else amax).view(torch.int32)
    return bits.add(rule.offset).bitwise_and_(_SIGN_AND_EXPONENT).clamp_(_LEAST_SCALE, _LARGEST_SCALE)


def _inverse(scales: torch.Tensor) -> torch.Tensor:
    """1 / scale, exactly, from the scales' bits. By bits, not by division: 2**-127 may have been flushed to zero."""
    bits = (_LARGEST_SCALE + _LEAST_SCALE - scales).bitwise_and_(_EXPONENT).clamp_(min=_LEAST_SCALE)
    return bits.view(torch.float32)


def _binades(v: torch.Tensor, rule: CastRule, out: torch.Tensor) -> torch.Tensor:
    """max(2**floor(log2|v|), 2**emin), written into ``out``."""
    torch.bitwise_and(v.view(torch.int32), _EXPONENT, out=out.view(torch.int32))
    return out.clamp_(min=rule.least)


def _round(quanta: torch.Tensor, thresholds: torch.Tensor | None) -> torch.Tensor:
    """Round in place to whole quanta, keeping the sign of zero.

    Nearest, ties to even; or, given thresholds in (0, 1], stochastically (see ``philox``).
    """
    if thresholds is None:
        return quanta.round_()
    magnitude = quanta.abs()
    low = magnitude.floor()
    low += (magnitude - low) >= thresholds
    return quanta.copy_(torch.copysign(low, quanta))


def cast_values(
    v: torch.Tensor, rule: CastRule, thresholds: torch.Tensor | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Quantise and decode blocks without making codes; equal to the decoded codes bit for bit.

    A block with a NaN or an infinity becomes NaN. The result goes into ``out`` (float32, v's shape,
    may be v) when given.
    """
    work = v.abs()
    amax = work.amax(1, True)
    bits = block_scales(amax, rule)
    # 0 * amax is NaN exactly where amax is not finite; elsewhere the sum changes nothing.
    scale = torch.add(bits.view(torch.float32), amax, alpha=0)
    y = v * _inverse(bits)
    quantum = _binades(y, rule, work).mul_(rule.step)
    _round(y.div_(quantum), thresholds).mul_(quantum).clamp_(-rule.max, rule.max)
    if rule.is_integer:
        y.add_(0.0)  # two's complement has no negative zero
    return y.mul_(scale) if out is None else torch.mul(y, scale, out=out)


def cast_codes(
    v: torch.Tensor, rule: CastRule, thresholds: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Element codes (uint8, v's shape) and E8M0 scale codes (uint8, axis 1 of size 1) of blocks.

    A block with a NaN or an infinity gets scale code 255 and elements 0.
    """
    element = rule.format.element
    work = v.abs()
    amax = work.amax(1, True)
    bits = block_scales(amax, rule)
    broken = amax.isfinite().logical_not_()
    y = (v * _inverse(bits)).masked_fill_(broken, 0.0)
    binade = _binades(y, rule, work)
    exponent = (binade.view(torch.int32) >> 23).sub_(127 + element.emin)
    quanta = _round(y.div_(binade.mul_(rule.step)), thresholds)
    # Rounding up to the next binade carries into the exponent by itself.
    codes = exponent.bitwise_left_shift_(element.mantissa_bits).add_(quanta.abs().to(torch.int32))
    codes.clamp_(max=rule.max_code)
    if rule.is_integer:
        codes = torch.where(quanta < 0, -codes, codes).bitwise_and_(0xFF)
    else:
        codes |= torch.signbit(quanta).to(torch.int32) << (element.bits - 1)
    scales = (bits >> 23).masked_fill_(broken, 255)
    return codes.to(torch.uint8), scales.to(torch.uint8)
