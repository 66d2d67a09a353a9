"""Tables from codes to values: elements (OCP MX v1.0, section 5.3) and E8M0 scales (section 5.4)."""

from __future__ import annotations

from functools import cache

import torch

from .rules import max_code
from .spec import Element

NAN_SCALE = 255


def element_value(element: Element, code: int) -> float:
    """Value of one code, in units of the scale.

    Codes above that of ``max`` are NaN where ``max`` lies in the last binade (E4M3), and otherwise
    as in IEEE 754: infinity, then NaN (E5M2). INT8 is two's complement times 2**-6, so 0x80 is -2.
    """
    if element.is_integer:
        return (code - 256 if code >= 128 else code) * 2.0**-element.mantissa_bits
    sign = -1.0 if code >> (element.bits - 1) else 1.0
    magnitude = code & ((1 << (element.bits - 1)) - 1)
    field, mantissa = divmod(magnitude, 1 << element.mantissa_bits)
    if magnitude > max_code(element):
        ieee = max_code(element) >> element.mantissa_bits < (1 << element.exponent_bits) - 1
        return sign * float("inf") if ieee and mantissa == 0 else float("nan")
    exponent = max(field, 1) - 1 + element.emin
    leading = 1 << element.mantissa_bits if field else 0
    return sign * (leading + mantissa) * 2.0 ** (exponent - element.mantissa_bits)


@cache
def element_table(element: Element, device: torch.device) -> torch.Tensor:
    """All values of an element type by code: float32 of shape (2**bits,)."""
    values = [element_value(element, code) for code in range(1 << element.bits)]
    return torch.tensor(values, dtype=torch.float32).to(device)


@cache
def scale_table(device: torch.device) -> torch.Tensor:
    """All E8M0 scales by code: float32 of shape (256,); 2**(code - 127), and NaN for 255."""
    values = [2.0 ** (code - 127) for code in range(NAN_SCALE)]
    return torch.tensor([*values, float("nan")], dtype=torch.float32).to(device)
