"""Whole blocks against gfloat, an independent implementation of OCP MX (finite inputs; it raises on NaN)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gfloat import BlockFormatInfo, quantize_block
from gfloat.block import compute_scale_amax
from gfloat.formats import (
    format_info_mxfp4_e2m1,
    format_info_mxfp6_e2m3,
    format_info_mxfp6_e3m2,
    format_info_mxfp8_e4m3,
    format_info_mxfp8_e5m2,
    format_info_mxint8,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mx_plugin.formats import fake_quantize, get_format, quantize

BLOCKS = {
    "MXFP8": format_info_mxfp8_e4m3,
    "MXFP8_E5M2": format_info_mxfp8_e5m2,
    "MXFP6": format_info_mxfp6_e2m3,
    "MXFP6_E3M2": format_info_mxfp6_e3m2,
    "MXFP4": format_info_mxfp4_e2m1,
    "MXINT8": format_info_mxint8,
}

whole_range = st.floats(width=32, allow_nan=False, allow_infinity=False)
ordinary = st.floats(-100, 100, width=32)
blocks = st.one_of(arrays(np.float32, 32, elements=whole_range), arrays(np.float32, 32, elements=ordinary))


def oracle(fi: BlockFormatInfo, x: np.ndarray, name: str) -> np.ndarray:
    """gfloat's values as float32. It lets MXINT8 reach -2; the project clamps there, at -127/64."""
    wide = x.astype(np.float64)
    values = quantize_block(fi, wide, compute_scale_amax)
    if name == "MXINT8":
        limit = get_format(name).element.max * compute_scale_amax(fi.etype.emax, wide)
        values = np.clip(values, -limit, limit)
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


@pytest.mark.parametrize("name", BLOCKS)
@settings(max_examples=60)
@given(x=blocks)
def test_any_finite_block_has_gfloats_values(name: str, x: np.ndarray) -> None:
    expected = oracle(BLOCKS[name], x, name)
    packed = quantize(torch.from_numpy(x), name)
    np.testing.assert_array_equal(packed.dequantize().numpy(), expected)
    np.testing.assert_array_equal(fake_quantize(torch.from_numpy(x), name).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", BLOCKS)
def test_16_bit_blocks_along_any_dimension_have_gfloats_values(name: str, dtype: torch.dtype) -> None:
    x = (torch.randn(3, 41, 2) * 5).to(dtype)
    got = quantize(x, name, dim=1).dequantize(torch.float32)
    for i in range(3):
        for j in range(2):
            for start in (0, 32):
                part = x[i, start : start + 32, j].float().numpy()
                expected = oracle(BLOCKS[name], part, name)
                np.testing.assert_array_equal(got[i, start : start + 32, j].numpy(), expected)
