"""Stochastic rounding: to a neighbour, without bias, from bits that depend on the element's index alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mx_plugin.errors import FormatError
from mx_plugin.formats import MXTensor, StochasticKey, fake_quantize, format_names, get_format, quantize
from mx_plugin.formats.philox import words

KEY = StochasticKey(11, 22, 33)


def grid(name: str) -> np.ndarray:
    """All finite values that a cast produces, in units of the scale, ascending."""
    codes = torch.arange(1 << get_format(name).element.bits, dtype=torch.uint8).view(-1, 16)
    one = torch.full((len(codes), 1), 127, dtype=torch.uint8)
    values = MXTensor.from_codes(codes, one, name).dequantize().double().numpy().flatten()
    values = np.unique(values[np.isfinite(values)])
    return values[np.abs(values) <= get_format(name).element.max]


@pytest.mark.parametrize("name", format_names())
def test_each_element_goes_up_exactly_when_its_own_word_says_so(name: str) -> None:
    x = (torch.randn(40, 33) * 3).float()
    for dim in (0, 1):
        packed = quantize(x, name, dim, "stochastic", "rceil", KEY)
        scale = torch.exp2(packed.scale_codes().double() - 127)
        scale = scale.repeat_interleave(32, dim).narrow(dim, 0, x.shape[dim]).numpy()
        v, values = np.abs(x.double().numpy() / scale), grid(name)
        low = values[np.searchsorted(values, v, side="right") - 1]
        high = values[np.minimum(np.searchsorted(values, v, side="right"), len(values) - 1)]
        with np.errstate(invalid="ignore"):
            fraction = np.where(high > low, (v - low) / (high - low), 0)
        word = words(KEY, x.numel()).numpy().reshape(x.shape)
        up = fraction * 2.0**24 >= (word >> 8) + 1
        expected = np.copysign(np.where(up, high, low), x.numpy()) * scale
        np.testing.assert_array_equal(packed.dequantize().double().numpy(), expected)


def test_a_fraction_equal_to_its_threshold_rounds_up_and_the_next_smaller_one_down() -> None:
    threshold = ((words(KEY, 4096) >> 8) + 1).view(-1, 32)
    quantum = 2.0**-6
    for below in (0, 1):
        x = (threshold - below).to(torch.float32) * (quantum * 2.0**-24)
        x[:, 0] = 1.0  # so that the scale is 1 and all else lies within the first quantum
        y = fake_quantize(x, "MXINT8", rounding="stochastic", key=KEY)
        assert (y[:, 1:] == (0.0 if below else quantum)).all()


@pytest.mark.parametrize("name", format_names())
def test_the_expected_value_under_rceil_is_the_input(name: str) -> None:
    """The mean of n draws between neighbours one quantum apart deviates by at most quantum / (2 sqrt(n))."""
    draws, element = 4096, get_format(name).element
    x = torch.randn(64) * torch.exp2(torch.randint(-3, 3, (64,)))
    options = {"rounding": "stochastic", "scale_rule": "rceil", "key": KEY}
    y = fake_quantize(x.expand(draws, 64), name, **options).double()
    scale = torch.exp2(quantize(x, name, **options).scale_codes().double() - 127).repeat_interleave(32)
    binade = (x.abs().double() / scale).log2().floor().clamp(min=element.emin)
    quantum = torch.exp2(binade - element.mantissa_bits) * scale
    assert (y.amax(0) - y.amin(0)).max() > 0
    assert ((y.mean(0) - x.double()).abs() <= 6 * quantum / (2 * draws**0.5)).all()


def test_nearest_rounding_would_fail_that_test() -> None:
    x = torch.full((32,), 0.3)
    x[0] = 1.0
    assert (fake_quantize(x, "MXFP4").double().mean() - x.double().mean()).abs() > 0.01


@pytest.mark.parametrize("name", format_names())
def test_representable_values_stay_put(name: str) -> None:
    x = fake_quantize(torch.randn(32, 64), name, scale_rule="rceil")
    for step in range(4):
        key = StochasticKey(0, step, 0)
        assert torch.equal(fake_quantize(x, name, rounding="stochastic", scale_rule="rceil", key=key), x)


def test_the_same_key_gives_the_same_bits_whatever_dimension_is_blocked() -> None:
    x = torch.full((96, 64), 0.3)
    x[:, 0] = x[0, :] = 1.0
    along = [fake_quantize(x, "MXFP4", dim, rounding="stochastic", key=KEY) for dim in (0, 1)]
    # Blocks along either dimension: those that hold a 1 have the same scale, hence the same decisions.
    assert torch.equal(along[0][:32, :32], along[1][:32, :32])
    assert not torch.equal(along[0], fake_quantize(x, "MXFP4", 0, rounding="stochastic", key=StochasticKey(11, 23, 33)))


def test_a_tensor_cast_row_after_row_from_memory_order_equals_the_whole() -> None:
    x = torch.randn(50, 4096)
    whole = fake_quantize(x, "MXFP4", rounding="stochastic", key=KEY)
    first = fake_quantize(x[:7], "MXFP4", rounding="stochastic", key=KEY)
    assert torch.equal(whole[:7], first)


def test_tiny_values_next_to_a_large_one_never_round_up() -> None:
    """Below 2**-24 of a quantum the probability is zero: flushing subnormals cannot change the bits."""
    x = torch.full((1 << 16, 32), 1e-30)
    x[:, 0] = 1e30
    y = fake_quantize(x, "MXFP8_E5M2", rounding="stochastic", key=KEY)
    assert not y[:, 1:].any()


def test_it_refuses_to_draw_without_a_key() -> None:
    for function in (quantize, fake_quantize):
        with pytest.raises(FormatError, match="needs key=StochasticKey"):
            function(torch.ones(32), "MXFP4", rounding="stochastic")
