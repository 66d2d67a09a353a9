"""A cast's settings, checked once and turned into the constants that its arithmetic uses.

All on float32 bit patterns (IEEE 754 binary32): exponent field at bit 23, bias 127.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from ..errors import FormatError, nearest
from .spec import FP16, ROUNDINGS, SCALE_RULES, Element, Format, get_format, is_unquantised

_MANTISSA = 0x7FFFFF


@dataclass(frozen=True, slots=True, eq=False)
class CastRule:
    """Constants of one (format, rounding, scale rule).

    ``offset``: added to the bits of amax before its exponent field is kept; carries the scale rule
    and ``-emax``. ``doubled``: amax is doubled first (``offset`` makes up for it). ``least``:
    2**emin. ``step``: 2**-mantissa_bits. ``max_code``: code of ``max`` without its sign.
    """

    format: Format
    stochastic: bool
    offset: int
    doubled: bool
    least: float
    step: float
    max: float
    max_code: int
    is_integer: bool
    block_size: int


def _scale_offset(element: Element, scale_rule: str) -> int:
    """What the scale rule adds to the bits of amax before its exponent is read.

    ``floor``: nothing, floor(log2(amax)) (OCP MX v1.0, section 6.3). ``rceil``: a carry exactly when
    amax's mantissa exceeds that of ``element.max``, hence the smallest power of two s with
    amax / s <= max. ``even``: half a quantum, i.e. amax is first rounded to the element's mantissa.
    """
    if scale_rule == "floor":
        return 0
    if scale_rule == "even":
        return 1 << (22 - element.mantissa_bits)
    mantissa = int((math.frexp(element.max)[0] * 2 - 1) * (1 << 23))
    return _MANTISSA - mantissa


def max_code(element: Element) -> int:
    """Code (no sign bit) of ``element.max``."""
    exponent = math.frexp(element.max)[1] - 1
    quanta = int(element.max / 2.0 ** (exponent - element.mantissa_bits))
    return ((exponent - element.emin) << element.mantissa_bits) + quanta


@cache
def cast_rule(fmt: str | Format, rounding: str = "nearest", scale_rule: str = "floor") -> CastRule:
    """Check and prepare a cast.

    Raises:
        FormatError: unknown format, rounding or scale rule (naming the nearest valid word), or a
            format whose scale is not E8M0.
    """
    if isinstance(fmt, str) and is_unquantised(fmt):
        raise FormatError(f"{FP16} means 'not quantised': there is nothing to cast; choose a block format or skip it")
    if rounding not in ROUNDINGS:
        raise FormatError(f"unknown rounding {rounding!r}: {nearest(str(rounding), ROUNDINGS)}")
    if scale_rule not in SCALE_RULES:
        raise FormatError(f"unknown scale_rule {scale_rule!r}: {nearest(str(scale_rule), SCALE_RULES)}")
    form = get_format(fmt)
    if form.scale_type != "E8M0":
        raise FormatError(
            f"{form.name} has {form.scale_type} scales; the reference cast knows E8M0 only: "
            f"use a backend that provides {form.name}"
        )
    element = form.element
    # A subnormal amax has no implied leading bit. It matters only where exponent field 1 is not clamped to
    # code 0 anyway, that is for emax = 0; doubling lifts every amax that matters out of the subnormals.
    doubled = element.emax == 0
    return CastRule(
        format=form,
        stochastic=rounding == "stochastic",
        offset=_scale_offset(element, scale_rule) - ((element.emax + doubled) << 23),
        doubled=doubled,
        least=2.0**element.emin,
        step=2.0**-element.mantissa_bits,
        max=element.max,
        max_code=max_code(element),
        is_integer=element.is_integer,
        block_size=form.block_size,
    )
