"""Elements as the board sees them: a sign and an integer magnitude, in units of the format's smallest step.

One table per format, taken from the core's tables of values. The RTL's constants are generated from the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mx_plugin.formats.decode import element_value
from mx_plugin.formats.spec import Element, get_format

BLOCK = 32
FORMATS = ("MXFP8", "MXFP8_E5M2", "MXFP6", "MXFP6_E3M2", "MXFP4", "MXINT8")
"""The formats that a board multiplies; a format's place is its number on the wire and in the RTL."""

DIGIT_BITS = 16
"""The weight of a magnitude's second digit is 2**16. Only E5M2, whose magnitudes have 32 bits, needs two."""

NO_CLASS, ZERO, INFINITE, NAN = 0, 1, 2, 3


@dataclass(frozen=True)
class ElementTable:
    """What each code of one format means; arrays of shape (256,), codes beyond the element's width unused (zero).

    value = (-1)**negative * (low + high * 2**16) * 2**unit. ``low`` < 2**18 and ``high`` < 2**17: each fits one
    operand of an 18 x 18 multiplier. A code's magnitude lies in one of them alone, so no rounding and no carry joins
    them. ``kind``: ZERO, INFINITE, NAN or, for other numbers, NO_CLASS; infinite and NaN codes have magnitude 0.
    """

    format: str
    bits: int
    unit: int
    negative: NDArray[np.bool_]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    kind: NDArray[np.uint8]

    @property
    def digits(self) -> int:
        """1, or 2 where magnitudes exceed one operand of the multiplier (E5M2)."""
        return 2 if self.high.any() else 1

    @property
    def max_magnitude(self) -> int:
        """Largest magnitude, digits joined."""
        return int((self.low.astype(np.int64) + (self.high.astype(np.int64) << DIGIT_BITS)).max())


def unit_exponent(element: Element) -> int:
    """log2 of the smallest positive element: magnitudes count in units of it."""
    return element.emin - element.mantissa_bits


@cache
def element_table(name: str) -> ElementTable:
    """The table of one of the six formats (canonical name).

    Raises:
        FormatError: not a format.
        ValueError: a registered format that no board knows.
    """
    form = get_format(name)
    if form.name not in FORMATS:
        raise ValueError(f"format {form.name} is none of those that a board multiplies: {', '.join(FORMATS)}")
    element = form.element
    unit = unit_exponent(element)
    negative, kind = np.zeros(256, np.bool_), np.full(256, ZERO, np.uint8)
    low, high = np.zeros(256, np.float32), np.zeros(256, np.float32)
    for code in range(1 << element.bits):
        value = element_value(element, code)
        negative[code] = bool(code >> (element.bits - 1))
        if value != value or value in (float("inf"), float("-inf")):
            kind[code] = NAN if value != value else INFINITE
            continue
        magnitude = int(abs(value) * 2.0**-unit)
        kind[code] = NO_CLASS if magnitude else ZERO
        # The exponent field decides the digit, not the magnitude: a mantissa is never cut in two.
        exponent_field = (code & ((1 << (element.bits - 1)) - 1)) >> element.mantissa_bits
        if not element.is_integer and exponent_field > DIGIT_BITS:
            high[code] = magnitude >> DIGIT_BITS
        else:
            low[code] = magnitude
    return ElementTable(form.name, element.bits, unit, negative, low, high, kind)


def format_number(name: str) -> int:
    """A format's number on the wire.

    Raises:
        ValueError: no board multiplies it.
    """
    return FORMATS.index(element_table(name).format)


def passes(weights: str, activations: str) -> int:
    """Cycles that a block needs in a dot unit: one per pair of digits (1, 2 or 4)."""
    return element_table(weights).digits * element_table(activations).digits
