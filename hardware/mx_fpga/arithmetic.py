"""The board's arithmetic, bit for bit, in numpy: what the RTL must answer and what ``emulate`` computes.

For each pair of rows: every block of 32 products is summed as an integer, exactly; the sum times both scales is
rounded once to float32 (to nearest, ties to even, gradual underflow); the rounded sums are added in float32 one block
after the other, starting from +0. docs/fpga.md, "Numbers", is this contract in words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .elements import BLOCK, DIGIT_BITS, INFINITE, NAN, ElementTable, element_table

Codes = NDArray[np.uint8]
NAN_BITS = 0x7FC00000
"""The one NaN that a board answers."""

NAN_SCALE = 255
_FLOAT32_EXACT, _FLOAT64_EXACT = 24, 53


@dataclass(frozen=True)
class Operand:
    """Decoded rows, ready to be multiplied: made by :func:`decode`.

    ``digits``: signed digits of weight 1 (and 2**16), each float32 of shape (nblocks, rows, 32). ``scales``: float64 of
    shape (nblocks, rows), the power of two of scale and unit together, NaN for code 255. ``kinds``: uint8 of shape
    (nblocks, rows, 32) where a block holds an infinite or NaN element, else None.
    """

    table: ElementTable
    digits: tuple[NDArray[np.float32], ...]
    scales: NDArray[np.float64]
    kinds: NDArray[np.uint8] | None
    signs: NDArray[np.bool_] | None

    @property
    def blocks(self) -> int:
        return self.scales.shape[0]

    @property
    def rows(self) -> int:
        return self.scales.shape[1]


def decode(codes: Codes, scales: Codes, fmt: str) -> Operand:
    """Decode element codes of shape (rows, K) and scale codes of shape (rows, ceil(K / 32)), both uint8.

    A ragged last block is filled with zeros.

    Raises:
        ValueError: shapes or dtypes do not fit, or no board knows the format.
    """
    table = element_table(fmt)
    if codes.dtype != np.uint8 or scales.dtype != np.uint8 or codes.ndim != 2:
        raise ValueError(f"codes must be uint8 of shape (rows, K), not {codes.dtype} {codes.shape}, {scales.dtype}")
    rows, length = codes.shape
    nblocks = -(-length // BLOCK)
    if scales.shape != (rows, nblocks):
        raise ValueError(
            f"scales must have shape {(rows, nblocks)} for codes of shape {codes.shape}, not {scales.shape}"
        )
    if length % BLOCK:
        codes = np.pad(codes, ((0, 0), (0, -length % BLOCK)))
    blocked = np.ascontiguousarray(codes.reshape(rows, nblocks, BLOCK).swapaxes(0, 1))
    signed = [np.where(table.negative, -part, part) for part in (table.low, table.high)[: table.digits]]
    powers = np.ldexp(1.0, np.arange(256) - 127 + table.unit)
    powers[NAN_SCALE] = np.nan
    special = bool((table.kind >= INFINITE)[blocked].any())
    return Operand(
        table=table,
        digits=tuple(part[blocked] for part in signed),
        scales=powers[scales.T],
        kinds=table.kind[blocked] if special else None,
        signs=table.negative[blocked] if special else None,
    )


def matmul(x: Operand, w: Operand) -> NDArray[np.float32]:
    """Y[t, r] = dot(x[t], w[r]) as a board computes it: float32 of shape (x.rows, w.rows).

    Raises:
        ValueError: the operands do not have equally many blocks.
    """
    if x.blocks != w.blocks:
        raise ValueError(f"rows of {x.blocks} and of {w.blocks} blocks have no product")
    out = np.zeros((x.rows, w.rows), np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for block in range(x.blocks):
            out += _rounded_sum(x, w, block)
    out.view(np.uint32)[np.isnan(out)] = NAN_BITS
    return out


def matmul_codes(
    x_codes: Codes, x_scales: Codes, x_format: str, w_codes: Codes, w_scales: Codes, w_format: str
) -> NDArray[np.float32]:
    """:func:`matmul` of rows still in codes; see :func:`decode` for shapes and errors."""
    return matmul(decode(x_codes, x_scales, x_format), decode(w_codes, w_scales, w_format))


def error_bound(blocks: int) -> float:
    """Largest |error| relative to sum |x||w|: one rounding a block, one addition a block, each within 2**-24.

    Holds where no block sum or partial sum leaves the normal range of float32.
    """
    return (1 + 2.0**-24) ** (blocks + 1) - 1


def _rounded_sum(x: Operand, w: Operand, block: int) -> NDArray[np.float32]:
    """Sums of one block, rounded once to float32: shape (x.rows, w.rows)."""
    exact = _exact_sum(x, w, block)
    # Powers of two within float64's normal range, so these products are exact and the cast is the one rounding.
    rounded = (exact * x.scales[block][:, None] * w.scales[block]).astype(np.float32)
    if x.kinds is not None or w.kinds is not None:
        _overwrite_specials(rounded, x, w, block)
    return rounded


def _exact_sum(x: Operand, w: Operand, block: int) -> NDArray[np.float64]:
    """The integer sum as float64; where it has more than 53 bits, rounded to odd.

    A value rounded to odd with 53 bits rounds to 24 bits as the exact one does (Boldo and Melquiond, "Emulation of FMA
    and correctly rounded sums", 2008), so the caller still rounds once.
    """
    bits = (x.table.max_magnitude * w.table.max_magnitude * BLOCK).bit_length()
    if bits <= _FLOAT32_EXACT:  # all partial sums are exact in any order
        return (x.digits[0][block] @ w.digits[0][block].T).astype(np.float64)
    xs = [digit[block].astype(np.float64) for digit in x.digits]
    ws = [digit[block].astype(np.float64) for digit in w.digits]
    terms = [np.zeros((x.rows, w.rows)) for _ in range(len(xs) + len(ws) - 1)]
    for i, xd in enumerate(xs):
        for j, wd in enumerate(ws):
            terms[i + j] += xd @ wd.T
    step = float(1 << DIGIT_BITS)
    if len(terms) == 1:
        return terms[0]
    if len(terms) == 2 and bits <= _FLOAT64_EXACT:
        return terms[0] + terms[1] * step
    high = terms[2] * (step * step) if len(terms) == 3 else np.zeros_like(terms[0])
    return _sum_to_odd(high, terms[1] * step, terms[0])


def _two_sum(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """a + b = s + e exactly, with s the rounded sum (Knuth's TwoSum)."""
    s = a + b
    b_part = s - a
    return s, (a - (s - b_part)) + (b - b_part)


def _sum_to_odd(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """a + b + c, rounded to odd. The terms are integers below 2**72 whose errors e1 + e2 add exactly."""
    s, first = _two_sum(a, b)
    s, second = _two_sum(s, c)
    s, error = _two_sum(s, first + second)
    even = s.view(np.int64) & 1 == 0
    return np.where((error != 0) & even, np.nextafter(s, np.copysign(np.inf, error)), s)


def _overwrite_specials(rounded: NDArray[np.float32], x: Operand, w: Operand, block: int) -> None:
    """Put in what IEEE 754 says of infinite and NaN elements: inf * 0 and inf - inf are NaN.

    Decided by counting products of each sort; counts are at most 64, exact in float32.
    """
    xk, xn = _kinds(x, block)
    wk, wn = _kinds(w, block)

    def count(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float32]:
        counts: NDArray[np.float32] = a.astype(np.float32) @ b.astype(np.float32).T
        return counts

    x_inf, w_inf, x_nan, w_nan = xk == INFINITE, wk == INFINITE, xk == NAN, wk == NAN
    x_number, w_number = (xk == 0) | x_inf, (wk == 0) | w_inf  # neither zero nor NaN
    everything_x, everything_w = np.ones_like(x_nan), np.ones_like(w_nan)
    nan = count(x_nan, everything_w) + count(everything_x, w_nan)
    nan += count(x_inf, ~w_number & ~w_nan) + count(~x_number & ~x_nan, w_inf)
    infinite = [np.zeros_like(nan), np.zeros_like(nan)]
    for xs in (False, True):
        for ws in (False, True):
            x_side, w_side = xn == xs, wn == ws
            infinite[xs ^ ws] += count(x_inf & x_side, w_number & w_side) + count(x_number & x_side, w_inf & w_side)
    nan_scale = np.isnan(x.scales[block])[:, None] | np.isnan(w.scales[block])
    rounded[infinite[0] > 0] = np.inf
    rounded[infinite[1] > 0] = -np.inf
    rounded[(nan > 0) | ((infinite[0] > 0) & (infinite[1] > 0)) | nan_scale] = np.nan


def _kinds(operand: Operand, block: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Kind and sign of a block's elements, each of shape (rows, 32); from the digits where nothing is special."""
    if operand.kinds is not None and operand.signs is not None:
        return operand.kinds[block], operand.signs[block]
    total = operand.digits[0][block] + sum(digit[block] for digit in operand.digits[1:])
    return (total == 0).astype(np.uint8), total < 0
