"""Decoding by the native kernels has the core's bits, wherever it is written."""

from __future__ import annotations

import pytest
import torch

from mx_cpu.native_backend import NativeBackend
from mx_plugin import get_backend
from mx_plugin.formats import format_names, quantize
from mx_plugin.interfaces import Backend

from .test_native_casts import DTYPES, awkward, same_bits


@pytest.mark.parametrize("fmt", format_names())
@pytest.mark.parametrize("dtype", DTYPES)
def test_native_decoding_is_the_cores(level: str, fmt: str, dtype: torch.dtype) -> None:
    backend = NativeBackend()
    for shape, dim in (((7, 100), -1), ((64, 96), -1), ((100, 7), 0), ((0, 32), -1)):
        for values in (awkward(shape, torch.float32), torch.randn(shape)):
            packed = quantize(values, fmt, dim)
            _check(backend, packed, dtype)
            if dim == -1:
                handle = backend.load_weight(packed)  # from now on it is known whether its scales are ordinary
                _check(backend, packed, dtype)
                backend.unload_weight(handle)
    backend.close()


def test_the_default_decodes_by_the_core() -> None:
    _check(get_backend("reference"), quantize(awkward((7, 100), torch.float32), "MXFP6"), torch.bfloat16)


def _check(backend: Backend, packed: object, dtype: torch.dtype) -> None:
    expected = packed.dequantize(dtype)
    assert same_bits(backend.dequantize(packed, dtype), expected)
    rows, columns = expected.shape
    for out in (torch.empty(rows, columns, dtype=dtype), torch.empty(columns, rows, dtype=dtype).t()):
        assert backend.dequantize(packed, dtype, out) is out
        assert same_bits(out, expected)
