"""Blocks along any dimension, ragged tails, strides, dtypes, ``out``: one cast, whatever the way in."""

from __future__ import annotations

import pytest
import torch

from mx_plugin.formats import StochasticKey, fake_quantize, format_names, quantize
from mx_plugin.formats.blocks import AT_ONCE

KEY = StochasticKey(1, 2, 3)
ROUNDINGS = [{"rounding": "nearest"}, {"rounding": "stochastic", "key": KEY}]
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def wild(*shape: int) -> torch.Tensor:
    """Values over many binades, with both zeros."""
    x = torch.randn(shape) * torch.exp2(torch.randint(-6, 6, shape))
    return torch.where(torch.rand(shape) < 0.05, -0.0, x)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(BITS[a.dtype]), b.contiguous().view(BITS[b.dtype]))


@pytest.mark.parametrize("options", ROUNDINGS, ids=["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", list(BITS))
@pytest.mark.parametrize("name", format_names())
def test_fake_quantize_is_quantize_then_dequantize_bit_for_bit(name: str, dtype: torch.dtype, options: dict) -> None:
    for shape in ((64,), (3, 45), (4, 96), (2, 33, 5), (3, 64, 7), (300, 256)):
        x = wild(*shape).to(dtype)
        for dim in range(-1, len(shape) - 1):
            for rule in ("floor", "rceil", "even"):
                slow = quantize(x, name, dim, scale_rule=rule, **options).dequantize()
                assert same_bits(fake_quantize(x, name, dim, scale_rule=rule, **options), slow), (shape, dim, rule)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_blocking_a_dimension_equals_moving_it_last(dim: int) -> None:
    x = wild(37, 40, 70)
    packed, moved = quantize(x, "MXFP6", dim), quantize(x.movedim(dim, -1), "MXFP6")
    assert torch.equal(packed.element_codes().movedim(dim, -1), moved.element_codes())
    assert torch.equal(packed.scale_codes().movedim(dim, -1), moved.scale_codes())
    assert torch.equal(packed.elements, moved.elements)
    assert same_bits(packed.dequantize().movedim(dim, -1), moved.dequantize())


def test_a_ragged_tail_is_a_block_of_its_own() -> None:
    x = wild(3, 172)
    packed = quantize(x, "MXFP4")
    assert packed.scale_codes().shape == (3, 6)
    assert torch.equal(packed.dequantize()[:, 160:], quantize(x[:, 160:], "MXFP4").dequantize())
    assert torch.equal(packed.dequantize()[:, :160], quantize(x[:, :160], "MXFP4").dequantize())


@pytest.mark.parametrize("options", ROUNDINGS, ids=["nearest", "stochastic"])
def test_strides_do_not_matter(options: dict) -> None:
    x = wild(64, 90)
    for view in (x.t(), x[::2, 1::3], x.expand(2, 64, 90), x.t().unflatten(0, (9, 10))):
        assert not view.is_contiguous()
        for dim in range(view.dim()):
            whole = view.contiguous()
            assert quantize(view, "MXFP8", dim, **options).equal(quantize(whole, "MXFP8", dim, **options))
            assert same_bits(
                fake_quantize(view, "MXFP8", dim, **options), fake_quantize(whole, "MXFP8", dim, **options)
            )


@pytest.mark.parametrize("options", ROUNDINGS, ids=["nearest", "stochastic"])
@pytest.mark.parametrize("dim", [0, 1])
def test_a_large_tensor_cast_in_pieces_equals_its_rows_cast_alone(dim: int, options: dict) -> None:
    x = wild(3 * AT_ONCE // 512, 512)
    whole = fake_quantize(x, "MXFP4", dim, **options)
    assert same_bits(whole, quantize(x, "MXFP4", dim, **options).dequantize())
    if options["rounding"] == "nearest":
        parts = [fake_quantize(part, "MXFP4", dim) for part in x.split(32)]
        assert same_bits(whole, torch.cat(parts))


@pytest.mark.parametrize("length", [96, 45])
@pytest.mark.parametrize("dtype", list(BITS))
def test_out_receives_the_result(dtype: torch.dtype, length: int) -> None:
    x = wild(5, length)
    expected = fake_quantize(x, "MXFP4").to(dtype)
    for out in (torch.full((5, length), 7, dtype=dtype), torch.full((length, 5), 7, dtype=dtype).t()):
        assert fake_quantize(x, "MXFP4", out=out) is out
        assert same_bits(out, expected)
    if dtype == x.dtype:
        assert fake_quantize(x, "MXFP4", out=x) is x
        assert same_bits(x, expected)


def test_the_input_is_left_alone() -> None:
    x = wild(4, 96)
    before = x.clone()
    for options in ROUNDINGS:
        fake_quantize(x, "MXFP4", **options)
        fake_quantize(x, "MXFP4", hadamard=KEY, **options)
        quantize(x, "MXFP4", **options)
    assert same_bits(x, before)


@pytest.mark.parametrize("dtype", list(BITS))
def test_the_result_has_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    x = wild(2, 32).to(dtype)
    assert fake_quantize(x, "MXFP8").dtype == quantize(x, "MXFP8").dtype == dtype
    assert quantize(x, "MXFP8").dequantize().dtype == dtype
    assert quantize(x, "MXFP8").dequantize(torch.float32).dtype == torch.float32


def test_casting_twice_changes_nothing_under_rceil() -> None:
    for name in format_names():
        once = fake_quantize(wild(64, 64), name, scale_rule="rceil")
        assert same_bits(fake_quantize(once, name, scale_rule="rceil"), once), name
