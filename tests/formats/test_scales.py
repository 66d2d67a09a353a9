"""Shared scales against fp64 arithmetic written from the specification's words, not from bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mx_plugin.formats import format_names, get_format, quantize

FLOAT32_MAX = float(np.finfo(np.float32).max)


def floor_log2(x: float) -> int:
    return math.frexp(x)[1] - 1


def scale_exponent(amax: float, name: str, rule: str) -> int:
    """E8M0 exponent by the definitions in ``quantize``'s docstring; amax as an exact fp64."""
    element = get_format(name).element
    if amax == 0:
        return -127
    if rule == "floor":
        exponent = floor_log2(amax) - element.emax
    elif rule == "rceil":
        exponent = floor_log2(amax) - element.emax - 1
        while amax / 2.0**exponent > element.max:
            exponent += 1
    else:
        quantum = 2.0 ** (floor_log2(amax) - element.mantissa_bits)
        exponent = floor_log2(math.floor(amax / quantum + 0.5) * quantum) - element.emax
    return min(max(exponent, -127), 127)


def assert_scale(amax: float, name: str, rule: str, dtype: torch.dtype = torch.float32) -> None:
    x = torch.zeros(32, dtype=dtype)
    x[7] = -amax
    got = quantize(x, name, scale_rule=rule).scale_codes().item() - 127
    assert got == scale_exponent(amax, name, rule), f"amax = {amax!r}"


amax_bits = st.one_of(st.integers(0, 0x7F7FFFFF), st.integers(0, 0xFFFFFF), st.integers(0x7E000000, 0x7F7FFFFF))


@pytest.mark.parametrize("rule", ["floor", "rceil", "even"])
@pytest.mark.parametrize("name", format_names())
@given(bits=amax_bits)
def test_any_float32_amax_gets_the_scale_of_its_rule(name: str, rule: str, bits: int) -> None:
    assert_scale(float(np.uint32(bits).view(np.float32)), name, rule)


@pytest.mark.parametrize("rule", ["floor", "rceil", "even"])
@pytest.mark.parametrize("name", format_names())
def test_edges_of_every_binade_get_the_scale_of_their_rule(name: str, rule: str) -> None:
    element = get_format(name).element
    half = element.max + 2.0 ** (element.emax - element.mantissa_bits - 1)
    mantissas = np.array([1.0, element.max / 2.0**element.emax, half / 2.0**element.emax])
    edges = np.minimum(mantissas * 2.0 ** np.arange(-149, 128)[:, None], FLOAT32_MAX).astype(np.float32).flatten()
    around = [edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges[:-3], np.float32(np.inf))]
    amax = np.concatenate(around)
    got = quantize(torch.from_numpy(amax)[:, None], name, scale_rule=rule).scale_codes().flatten().tolist()
    assert got == [scale_exponent(float(value), name, rule) + 127 for value in amax]


@pytest.mark.parametrize("name", format_names())
def test_scales_are_clamped_at_both_ends_of_e8m0(name: str) -> None:
    emax = get_format(name).element.emax
    least, largest = torch.tensor([1e-45]), torch.tensor([FLOAT32_MAX])
    assert quantize(least, name).scale_codes().item() == 0
    assert quantize(largest, name).scale_codes().item() == 254 - emax
    assert quantize(largest, name, scale_rule="rceil").scale_codes().item() == min(255 - emax, 254)


@pytest.mark.parametrize("name", format_names())
def test_rceil_never_saturates(name: str) -> None:
    x = torch.randn(4096, 32) * torch.exp2(torch.randint(-60, 60, (4096, 1)))
    scales = torch.exp2(quantize(x, name, scale_rule="rceil").scale_codes().double() - 127)
    assert (x.abs().double() <= get_format(name).element.max * scales).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", ["floor", "rceil", "even"])
def test_16_bit_inputs_get_the_scale_of_their_exact_value(dtype: torch.dtype, rule: str) -> None:
    every = torch.arange(0, 1 << 15, dtype=torch.int16).view(dtype)
    every = every[every.isfinite()]
    for name in format_names():
        got = quantize(every[:, None], name, scale_rule=rule).scale_codes().flatten().tolist()
        expected = [scale_exponent(a, name, rule) + 127 for a in every.tolist()]
        assert got == expected, name
