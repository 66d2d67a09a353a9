"""Element codes, exhaustively, against the tables of ml_dtypes (which does not saturate: values are clamped first)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from mx_plugin.formats import MXTensor, fake_quantize, format_names, get_format, quantize

TYPES = {
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E5M2": ml_dtypes.float8_e5m2,
    "E2M3": ml_dtypes.float6_e2m3fn,
    "E3M2": ml_dtypes.float6_e3m2fn,
    "E2M1": ml_dtypes.float4_e2m1fn,
}
DTYPES = {torch.float32: np.float32, torch.bfloat16: ml_dtypes.bfloat16, torch.float16: np.float16}

pytestmark = pytest.mark.parametrize("name", format_names())


def oracle_values(element: str) -> np.ndarray:
    """Value of every code, float64."""
    if element == "INT8":
        return np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64) / 64
    kind = TYPES[element]
    return np.arange(1 << ml_dtypes.finfo(kind).bits, dtype=np.uint8).view(kind).astype(np.float64)


def oracle_codes(element: str, x: np.ndarray) -> np.ndarray:
    """Code of every value (float64, within float32), rounded to nearest even and saturated."""
    if element == "INT8":
        return np.clip(np.rint(x * 64), -127, 127).astype(np.int8).view(np.uint8)
    kind = TYPES[element]
    limit = float(ml_dtypes.finfo(kind).max)
    return np.clip(x, -limit, limit).astype(np.float32).astype(kind).view(np.uint8)


def blocks_at_scale_one(name: str, x: np.ndarray) -> np.ndarray:
    """Blocks of 32 that hold the values of x with |x| < 2**(emax + 1), each led by 2**emax: scale 2**0 under floor."""
    emax = get_format(name).element.emax
    x = x[np.abs(x.astype(np.float64)) < 2.0 ** (emax + 1)]
    x = np.concatenate([x, np.zeros(-len(x) % 31, dtype=x.dtype)]).reshape(-1, 31)
    return np.concatenate([np.full((len(x), 1), 2.0**emax, dtype=x.dtype), x], axis=1)


def assert_encoded(name: str, blocks: np.ndarray, dtype: torch.dtype) -> None:
    element = get_format(name).element.name
    x = torch.from_numpy(blocks.astype(np.float64)).to(dtype)
    packed = quantize(x, name)
    assert (packed.scale_codes() == 127).all()
    expected = oracle_codes(element, blocks.astype(np.float64))
    np.testing.assert_array_equal(packed.element_codes().numpy(), expected)
    values = expected.view(np.int8) / 64 if element == "INT8" else expected.view(TYPES[element]).astype(np.float64)
    got = fake_quantize(x, name).double().numpy()
    np.testing.assert_array_equal(got, values)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(values))


def test_every_code_decodes_as_in_the_table(name: str) -> None:
    fmt = get_format(name)
    codes = torch.arange(1 << fmt.element.bits, dtype=torch.uint8).view(-1, 16)
    packed = MXTensor.from_codes(codes, torch.full((len(codes), 1), 127, dtype=torch.uint8), name)
    assert torch.equal(packed.element_codes(), codes)
    got = packed.dequantize().flatten().double().numpy()
    expected = oracle_values(fmt.element.name)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got[~np.isnan(got)]), np.signbit(expected[~np.isnan(expected)]))


def test_every_representable_value_encodes_to_itself(name: str) -> None:
    table = oracle_values(get_format(name).element.name)
    blocks = blocks_at_scale_one(name, table[np.isfinite(table)])
    assert_encoded(name, blocks, torch.float32)
    inside = np.abs(blocks) <= get_format(name).element.max
    np.testing.assert_array_equal(fake_quantize(torch.from_numpy(blocks).float(), name).numpy()[inside], blocks[inside])


def test_ties_and_their_float32_neighbours_round_to_even(name: str) -> None:
    table = oracle_values(get_format(name).element.name)
    grid = np.unique(table[np.isfinite(table)])
    ties = ((grid[1:] + grid[:-1]) / 2).astype(np.float32)
    tiny = np.array([0.0, -0.0, 1e-45, -1e-45], dtype=np.float32)
    x = np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf)), tiny])
    assert_encoded(name, blocks_at_scale_one(name, x), torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_input_encodes_as_in_the_table(name: str, dtype: torch.dtype) -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype])
    assert_encoded(name, blocks_at_scale_one(name, x[np.isfinite(x.astype(np.float32))]), dtype)


def test_random_float32_inputs_encode_as_in_the_table(name: str) -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, size=1 << 18, dtype=np.uint32)
    x = bits.view(np.float32)
    assert_encoded(name, blocks_at_scale_one(name, x[np.isfinite(x)]), torch.float32)


def test_values_beyond_the_largest_saturate_with_their_sign(name: str) -> None:
    element = get_format(name).element
    top = np.nextafter(np.float32(2.0 ** (element.emax + 1)), np.float32(0))
    x = torch.tensor([float(top), -float(top)] * 16)
    assert fake_quantize(x, name).tolist() == [element.max, -element.max] * 16
