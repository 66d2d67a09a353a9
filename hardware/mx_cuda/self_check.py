"""Whether the kernels compute on this card what the core computes: compared once a process, before they are used.

The kernels were tested in Triton's interpreter; a compiler and a card are two more things that can be wrong. What fails
here is never used: the reference takes its place, and a log line says what differed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from mx_plugin import formats
from mx_plugin.formats.philox import StochasticKey

if TYPE_CHECKING:
    from .backend import CudaBackend

SHAPE = (72, 100)
"""Rows and columns: blocks that are not whole, more rows than one program has."""
FORMATS = ("MXFP4", "MXFP6", "MXFP8", "MXFP8_E5M2", "MXINT8")
KEY, TURN = StochasticKey(1, 2, 3, 4), StochasticKey(5, 6, 7, 8)


@cache
def fault(device: str) -> str:
    """What the kernels get wrong on ``device``; empty if nothing that is looked at here."""
    from .backend import CudaBackend

    backend = CudaBackend()
    try:
        return next(faults(backend, device), "")
    except Exception as error:  # whatever a compiler may raise: the reason to do without it
        return f"{type(error).__name__}: {error}"
    finally:
        backend.close()


def faults(backend: CudaBackend, device: str) -> Iterator[str]:
    """Each difference from the core, in words: casts and decoding by bits, products by the backend's bound."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SHAPE, generator=generator)
    x[:, :32] *= torch.exp2(torch.arange(SHAPE[0]) - 36.0)[:, None]
    x = x.to(device)
    for dtype in (torch.float32, torch.bfloat16):
        for fmt in FORMATS:
            yield from _cast_faults(backend, x.to(dtype), fmt)
    for fmt in ("MXFP4", "MXFP8"):
        yield from _product_faults(backend, x, fmt)


def _cast_faults(backend: CudaBackend, x: torch.Tensor, fmt: str) -> Iterator[str]:
    where = f"{fmt} of {str(x.dtype).removeprefix('torch.')}"
    packed = formats.quantize(x, fmt)
    if not backend.quantize(x, fmt).equal(packed):
        yield f"the cast to {where} has other bits"
    if not _same(backend.dequantize(packed, x.dtype), packed.dequantize(x.dtype)):
        yield f"decoding {where} gives other bits"
    for dim in (0, 1):
        options: dict[str, Any] = {"rounding": "stochastic", "key": KEY, "hadamard": TURN}
        if not _same(backend.fake_quantize(x, fmt, dim, **options), formats.fake_quantize(x, fmt, dim, **options)):
            yield f"stochastic rounding to {where} along dimension {dim} has other bits"


def _product_faults(backend: CudaBackend, x: torch.Tensor, fmt: str) -> Iterator[str]:
    from .backend import BOUND

    packed = formats.quantize(x, fmt)
    handle = backend.load_weight(packed)
    w = packed.dequantize(torch.float32).double()
    for rows in (1, 4, 40):
        a = formats.fake_quantize(x[:rows], "MXFP8").double()
        error = (backend.linear(x[:rows], handle).double() - a @ w.t()).abs() / (a.abs() @ w.abs().t() + 2.0**-126)
        if not float(error.max()) <= BOUND:
            yield f"the product of {rows} rows with {fmt} is off by {float(error.max()):.1e} of sum |x||w|"
    backend.unload_weight(handle)


def _same(mine: torch.Tensor, due: torch.Tensor) -> bool:
    whole = {2: torch.int16, 4: torch.int32}[due.element_size()]
    return mine.dtype == due.dtype and torch.equal(mine.contiguous().view(whole), due.contiguous().view(whole))
