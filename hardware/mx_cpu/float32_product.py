"""bfloat16 matrices multiplied into a float32 result.

torch has no such product on the CPU (``torch.mm(..., out_dtype=)`` is CUDA's), but the Intel MKL inside its library
does: ``cblas_gemm_bf16bf16f32`` of MKL's C interface, "exact products, float32 sums". It is taken where the processor
is MKL's own and multiplies bfloat16; elsewhere MKL emulates it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from ctypes import c_float, c_int, c_void_p
from functools import cache
from pathlib import Path

import torch

from mx_plugin.interfaces import MatrixProduct

_ROW_MAJOR, _AS_IT_IS, _TRANSPOSED = 101, 111, 112
_LARGEST = 2**31 - 1
"""MKL's integers have 32 bits in torch's builds."""


@cache
def float32_product() -> MatrixProduct | None:
    """``(a, b) -> a @ b`` in float32 for bfloat16 CPU matrices, or None where this machine has none.

    a: (m, k), b: (k, n); each contiguous or the transposed view of a contiguous matrix. Numbers below 2**-126, in
    operands, products and sums, may count as zero.
    """
    gemm = _gemm() if _multiplies_bfloat16() else None
    if gemm is None:
        return None

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        m, k = a.shape
        n = b.shape[1]
        if not (m and n and k) or max(m, n, k) > _LARGEST:
            return a.float() @ b.float()
        y = torch.empty((m, n), dtype=torch.float32)
        a, turned_a, step_a = _layout(a)
        b, turned_b, step_b = _layout(b)
        gemm(
            *(_ROW_MAJOR, turned_a, turned_b, m, n, k),
            *(1.0, a.data_ptr(), step_a, b.data_ptr(), step_b, 0.0, y.data_ptr(), n),
        )
        return y

    return product


def _layout(matrix: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """The matrix, CBLAS's word for how it lies, and its leading dimension."""
    rows, columns = matrix.shape
    if matrix.t().is_contiguous() and not matrix.is_contiguous():
        return matrix, _TRANSPOSED, rows
    return matrix.contiguous(), _AS_IT_IS, columns


def _multiplies_bfloat16() -> bool:
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return False
    return "GenuineIntel" in words and ("avx512_bf16" in words or "amx_bf16" in words)


def _gemm() -> Callable[..., None] | None:
    """MKL's function in the library that torch has loaded."""
    path = Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
    try:
        function = ctypes.CDLL(str(path), mode=getattr(os, "RTLD_NOLOAD", 0)).cblas_gemm_bf16bf16f32
    except (OSError, AttributeError):
        return None
    matrix = (c_void_p, c_int)
    function.argtypes = [*[c_int] * 6, c_float, *matrix, *matrix, c_float, *matrix]
    function.restype = None
    return function  # type: ignore[no-any-return]
