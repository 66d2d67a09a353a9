"""The board's arithmetic in numpy equals exact fractions, rounded where the contract says and nowhere else."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from mx_fpga.arithmetic import NAN_BITS, decode, error_bound, matmul, matmul_codes
from mx_fpga.elements import FORMATS, element_table, format_number, passes
from mx_plugin.formats import MXTensor, quantize
from tests.fpga.fractions_model import bits, dot, element_values, round_to_float32

PAIRS = [(w, x) for w in FORMATS for x in FORMATS]


def codes(generator: np.random.Generator, fmt: str, shape: tuple[int, ...], finite: bool = True) -> np.ndarray:
    table = element_table(fmt)
    drawn = generator.integers(0, 1 << table.bits, shape, dtype=np.uint8)
    return np.where(table.kind[drawn] >= 2, np.uint8(1), drawn) if finite else drawn


def expected(xc: np.ndarray, xs: np.ndarray, x_fmt: str, wc: np.ndarray, ws: np.ndarray, w_fmt: str) -> np.ndarray:
    xv, wv = element_values(x_fmt), element_values(w_fmt)
    rows = [
        [
            dot([xv[c] for c in xr], [wv[c] for c in wr], xsr.tolist(), wsr.tolist())
            for wr, wsr in zip(wc, ws, strict=True)
        ]
        for xr, xsr in zip(xc, xs, strict=True)
    ]
    return bits(rows)


@pytest.mark.parametrize("fmt", FORMATS)
def test_the_table_of_elements_says_what_ml_dtypes_says(fmt: str) -> None:
    table = element_table(fmt)
    for code, value in enumerate(element_values(fmt)):
        if math.isnan(value):
            assert table.kind[code] == 3
        elif math.isinf(value):
            assert table.kind[code] == 2 and table.negative[code] == (value < 0)
        else:
            magnitude = int(table.low[code]) + (int(table.high[code]) << 16)
            assert (-1) ** int(table.negative[code]) * magnitude * 2.0**table.unit == value
            assert (table.kind[code] == 1) == (value == 0)


@pytest.mark.parametrize("fmt", FORMATS)
def test_each_digit_fits_an_18_bit_operand_and_no_magnitude_is_cut_in_two(fmt: str) -> None:
    table = element_table(fmt)
    assert table.low.max() < 2**18 and table.high.max() < 2**18
    assert not ((table.low > 0) & (table.high > 0)).any()
    assert table.digits == (2 if fmt == "MXFP8_E5M2" else 1)


@pytest.mark.parametrize(("w_fmt", "x_fmt"), PAIRS)
def test_every_product_of_two_elements_is_exact(w_fmt: str, x_fmt: str) -> None:
    wv, xv = element_values(w_fmt), element_values(x_fmt)
    w = np.zeros((len(wv), 32), np.uint8)
    x = np.zeros((len(xv), 32), np.uint8)
    w[:, 5], x[:, 5] = np.arange(len(wv)), np.arange(len(xv))
    one = np.full((256, 1), 127, np.uint8)
    y = matmul_codes(x, one[: len(xv)], x_fmt, w, one[: len(wv)], w_fmt)
    # Two elements' product has at most 16 bits, so float64 and float32 both hold it; only 0 * -0 leaves a sign.
    with np.errstate(invalid="ignore"):
        products = np.outer(xv, wv) + 0.0
    assert np.array_equal(bits(y), bits(products.astype(np.float32)))


@pytest.mark.parametrize(("w_fmt", "x_fmt"), PAIRS)
def test_whole_rows_are_bit_exact_to_fractions(w_fmt: str, x_fmt: str) -> None:
    generator = np.random.default_rng(format_number(w_fmt) * 7 + format_number(x_fmt))
    wc, xc = codes(generator, w_fmt, (6, 96)), codes(generator, x_fmt, (3, 96))
    ws, xs = generator.integers(118, 136, (6, 3), np.uint8), generator.integers(118, 136, (3, 3), np.uint8)
    y = matmul_codes(xc, xs, x_fmt, wc, ws, w_fmt)
    assert np.array_equal(bits(y), expected(xc, xs, x_fmt, wc, ws, w_fmt))


@pytest.mark.parametrize(("w_fmt", "x_fmt"), PAIRS)
def test_extreme_scales_and_special_elements_are_bit_exact_to_fractions(w_fmt: str, x_fmt: str) -> None:
    generator = np.random.default_rng(100 + format_number(w_fmt) * 7 + format_number(x_fmt))
    extreme = np.array([0, 1, 2, 60, 100, 110, 127, 150, 200, 230, 253, 254, 255], np.uint8)
    wc, xc = codes(generator, w_fmt, (13, 64)), codes(generator, x_fmt, (13, 64))
    ws, xs = generator.choice(extreme, (13, 2)), generator.choice(extreme, (13, 2))
    ws[:, 0], xs[:, 0] = extreme, extreme
    wc[3], xc[4] = 0, 0
    for special in (wc[1], wc[2], xc[1], xc[2]):  # every code there is, specials too, in a few places
        special[:2] = generator.integers(0, 256, 2).astype(np.uint8) & ((1 << 8) - 1)
    wc &= (1 << element_table(w_fmt).bits) - 1
    xc &= (1 << element_table(x_fmt).bits) - 1
    y = matmul_codes(xc, xs, x_fmt, wc, ws, w_fmt)
    assert np.array_equal(bits(y), expected(xc, xs, x_fmt, wc, ws, w_fmt))


def test_infinities_follow_ieee_754() -> None:
    infinity, one, zero, negative = 0x7C, 0x3C, 0x00, 0x80
    scale = np.full((1, 1), 127, np.uint8)

    def answer(x: list[int], w: list[int]) -> float:
        pad = [0] * (32 - len(x))
        rows = [np.array([codes + pad], np.uint8) for codes in (x, w)]
        return float(matmul_codes(rows[0], scale, "MXFP8_E5M2", rows[1], scale, "MXFP8_E5M2")[0, 0])

    assert answer([infinity], [one]) == math.inf
    assert answer([infinity], [one | negative]) == -math.inf
    assert answer([infinity, infinity], [one, one]) == math.inf
    assert math.isnan(answer([infinity, infinity], [one, one | negative]))
    assert math.isnan(answer([infinity], [zero]))
    assert answer([infinity | negative], [infinity]) == -math.inf


def test_the_only_nan_is_the_positive_quiet_one() -> None:
    nan = np.full((1, 32), 0xFF, np.uint8)
    y = matmul_codes(nan, np.full((1, 1), 127, np.uint8), "MXFP8", nan, np.full((1, 1), 127, np.uint8), "MXFP8")
    assert y.view(np.uint32).item() == NAN_BITS
    scale = np.full((1, 1), 255, np.uint8)
    y = matmul_codes(nan * 0, scale, "MXFP4", nan * 0, scale, "MXFP4")
    assert y.view(np.uint32).item() == NAN_BITS


@pytest.mark.parametrize(("w_fmt", "x_fmt"), PAIRS)
def test_cancellation_inside_a_block_loses_nothing(w_fmt: str, x_fmt: str) -> None:
    """The two largest products cancel and leave the smallest, many orders of magnitude below them."""
    wv, xv = element_values(w_fmt), element_values(x_fmt)
    largest = [max((v, c) for c, v in enumerate(values) if math.isfinite(v)) for values in (wv, xv)]
    least = [min((v, c) for c, v in enumerate(values) if v > 0) for values in (wv, xv)]
    minus = max((-v, c) for c, v in enumerate(xv) if (math.isfinite(v) and -v == largest[1][0]) or -v == 1)
    w, x = np.zeros((1, 32), np.uint8), np.zeros((1, 32), np.uint8)
    w[0, 0], x[0, 0] = largest[0][1], minus[1]
    w[0, 31], x[0, 31] = largest[0][1], next(c for c, v in enumerate(xv) if v == minus[0])
    w[0, 15], x[0, 15] = least[0][1], least[1][1]
    scale = np.full((1, 1), 127, np.uint8)
    assert float(matmul_codes(x, scale, x_fmt, w, scale, w_fmt)[0, 0]) == least[0][0] * least[1][0]


def test_a_sum_wider_than_float64_is_rounded_once() -> None:
    """2**24 + 1 ties to 2**24; one unit of E5M2 * E5M2, 56 bits lower, must break the tie."""
    table = {v: c for c, v in enumerate(element_values("MXFP8_E5M2"))}
    scale = np.full((1, 1), 127, np.uint8)

    def total(pairs: list[tuple[float, float]]) -> float:
        x, w = np.zeros((1, 32), np.uint8), np.zeros((1, 32), np.uint8)
        for at, (a, b) in enumerate(pairs):
            x[0, at], w[0, at] = table[a], table[b]
        return float(matmul_codes(x, scale, "MXFP8_E5M2", w, scale, "MXFP8_E5M2")[0, 0])

    big, tiny = (4096.0, 4096.0), (2.0**-16, 2.0**-16)
    assert total([big, (1.0, 1.0)]) == 2.0**24
    assert total([big, (1.0, 1.0), tiny]) == 2.0**24 + 2
    assert total([big, (-1.0, 1.0), tiny]) == 2.0**24 - 1
    assert total([(4096.0, 4096.0), (3.0, 1.0), (-(2.0**-16), 2.0**-16)]) == 2.0**24 + 2


def test_blocks_are_added_in_ascending_order() -> None:
    """2**24, 1, 1: adding from the front loses both ones, any other order does not."""
    codes_of = {v: c for c, v in enumerate(element_values("MXFP8"))}
    x, w = np.zeros((1, 96), np.uint8), np.zeros((1, 96), np.uint8)
    x[0, ::32], w[0, ::32] = codes_of[1.0], codes_of[1.0]
    one = np.full((1, 3), 127, np.uint8)
    first, last = one.copy(), one.copy()
    first[0, 0], last[0, 2] = 127 + 24, 127 + 24
    assert float(matmul_codes(x, first, "MXFP8", w, one, "MXFP8")[0, 0]) == 2.0**24
    assert float(matmul_codes(x, last, "MXFP8", w, one, "MXFP8")[0, 0]) == 2.0**24 + 2


def test_a_real_cast_agrees_with_the_reference_within_the_stated_bound() -> None:
    x, weight = torch.randn(4, 200), torch.randn(50, 200)  # a ragged last block

    def parts(t: MXTensor) -> tuple[np.ndarray, np.ndarray, str]:
        return t.element_codes().numpy(), t.scale_codes().numpy(), t.format.name

    for w_fmt, x_fmt in PAIRS:
        xt, wt = quantize(x, x_fmt), quantize(weight, w_fmt)
        y = matmul_codes(*parts(xt), *parts(wt))
        xd, wd = xt.dequantize(torch.float64), wt.dequantize(torch.float64)
        bound = error_bound(7) * (xd.abs() @ wd.abs().T)
        assert bool(((torch.from_numpy(y).double() - xd @ wd.T).abs() <= bound).all())


def test_the_rounding_of_fractions_agrees_with_numpy() -> None:
    """The oracle's own rounding, against numpy's conversion from float64."""
    generator = np.random.default_rng(5)
    values = generator.integers(-(2**53), 2**53, 500) * 2.0 ** generator.integers(-205, 76, 500)
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    assert np.array_equal(bits([round_to_float32(Fraction(float(v))) for v in values]), bits(narrow))


def test_passes_are_counted_by_digits() -> None:
    assert (passes("MXFP4", "MXFP8"), passes("MXFP8_E5M2", "MXFP8"), passes("MXFP8_E5M2", "MXFP8_E5M2")) == (1, 2, 4)


def test_shapes_that_do_not_fit_are_refused() -> None:
    good = np.zeros((2, 64), np.uint8), np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"scales must have shape \(2, 2\)"):
        decode(good[0], np.zeros((2, 3), np.uint8), "MXFP8")
    with pytest.raises(ValueError, match="2 and of 1 blocks"):
        matmul(decode(*good, "MXFP8"), decode(good[0][:, :32], good[1][:, :1], "MXFP8"))
    with pytest.raises(ValueError, match="uint8"):
        decode(good[0].astype(np.int16), good[1], "MXFP8")
