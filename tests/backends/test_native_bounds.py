"""No kernel touches memory beyond its tensors: each lies against a page that may not be touched.

Unlike the sanitizers, the processor watches every instruction, masked and streaming ones too.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch

from mx_cpu.library import TYPES, Library, library
from mx_cpu.native_casts import NativeCasts
from mx_cpu.native_weight import NativeWeight
from mx_plugin.formats import MXTensor, StochasticKey, format_names, quantize
from mx_plugin.formats.packing import row_bytes
from mx_plugin.formats.rules import cast_rule

PAGE = mmap.PAGESIZE
KEY, TURN = StochasticKey(11, 3, 5, 2), StochasticKey(7, 3, 9, 1)
Fence = Callable[[torch.Tensor], torch.Tensor]
Cases = Iterator[tuple[object, ...]]

pytestmark = pytest.mark.usefixtures("level")


def fenced(x: torch.Tensor, at_end: bool) -> torch.Tensor:
    """A contiguous copy that ends (begins) where a page begins (ends) that belongs to nobody."""
    pages = -(-max(x.nbytes, 1) // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for page in (address, address + (pages + 1) * PAGE):
        assert protect(page, PAGE, 0) == 0, os.strerror(ctypes.get_errno())
    start = (pages + 1) * PAGE - x.nbytes if at_end else PAGE
    room = torch.frombuffer(memory, dtype=torch.uint8)[start : start + x.nbytes].view(x.dtype).view(x.shape)
    return room.copy_(x)


@pytest.fixture(params=[True, False], ids=["end", "start"])
def fence(request: pytest.FixtureRequest) -> Fence:
    return lambda x: fenced(x, request.param)


def survives(cases: Cases) -> None:
    """Run all cases in a forked child; fails with the last one before the processor stopped it."""
    told = mmap.mmap(-1, PAGE)  # shared with the child
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        torch.set_num_threads(1)
        status = 3
        try:
            for case in cases:
                told[:] = repr(case).encode().ljust(PAGE, b" ")
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code, last = os.waitstatus_to_exitcode(status), told[:].strip(b" \0").decode()
    assert code == 0, f"stopped by {code} after case {last or 'none'}"


def test_a_fence_stops_whoever_crosses_it(fence: Fence) -> None:
    x = fence(torch.zeros(5))

    def cases() -> Cases:
        for at in (0, 4, *range(-1, 6)):
            ctypes.memset(x.data_ptr() + 4 * at, 1, 4)
            yield (at,)

    with pytest.raises(AssertionError, match=f"stopped by -{signal.SIGSEGV.value}"):
        survives(cases())


TYPE_PAIRS = [*((kind, kind) for kind in TYPES), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)]
MATRICES = [(1, 1), (3, 31), (2, 64), (33, 37), (5, 513), (70, 1), (65, 96)]


def test_casts_to_values_keep_within(fence: Fence) -> None:
    casts = NativeCasts(library())

    ways = [("MXFP4", None, None), ("MXINT8", None, None), ("MXFP4", KEY, None), ("MXFP4", None, TURN)]
    bounds = {
        (way, dim): casts.bind(way[0], dim, "stochastic" if way[1] else "nearest", "rceil")
        for way, dim in product(ways, (0, 1))
    }

    def cases() -> Cases:
        for (source, result), shape, turned in product(TYPE_PAIRS, MATRICES, (False, True)):
            x = torch.randn(shape).to(source)
            x = fence(x.t()).t() if turned else fence(x)
            for dim, way in product((0, 1), ways):
                made = list(shape)
                if way[2] is not None:
                    made[dim] = -(-made[dim] // 32) * 32
                for to_turned in (False, True):
                    out = torch.empty(made[::-1] if to_turned else made, dtype=result)
                    bounds[way, dim](x, fence(out).t() if to_turned else fence(out), way[1], way[2])
                    yield source, result, shape, turned, dim, way, to_turned

    survives(cases())


def test_casts_to_packed_rows_keep_within(fence: Fence) -> None:
    native = library()
    casts = NativeCasts(native)

    def cases() -> Cases:
        for fmt, source, shape, dim in product(format_names(), TYPES, MATRICES, (0, 1)):
            for key in (None, KEY):
                rule = cast_rule(fmt, "nearest" if key is None else "stochastic", "rceil")
                length, rows = shape[dim], shape[1 - dim]
                job, x = casts._job(fence(torch.randn(shape).to(source)), rule, dim, key)
                elements = fence(torch.empty(rows, row_bytes(length, rule.format.element.bits), dtype=torch.uint8))
                scales = fence(torch.empty(rows, -(-length // 32), dtype=torch.uint8))
                job.elements, job.scales = elements.data_ptr(), scales.data_ptr()
                native.cast(job)
                del x
                yield fmt, source, shape, dim, key

    survives(cases())


def in_fences(packed: MXTensor, fence: Fence) -> MXTensor:
    return MXTensor(
        *(fence(packed.elements), fence(packed.scales)), packed.format, packed.shape, packed.dim, packed.dtype
    )


def test_decoding_keeps_within(fence: Fence) -> None:
    casts = NativeCasts(library())

    def cases() -> Cases:
        for fmt, dtype, shape, ordinary in product(format_names(), TYPES, MATRICES, (False, True)):
            packed = in_fences(quantize(torch.randn(shape), fmt), fence)
            casts.dequantize(packed, fence(torch.empty(shape, dtype=dtype)), ordinary)
            yield fmt, dtype, shape, ordinary

    survives(cases())


WEIGHTS = [(1, 1), (5, 33), (16, 96), (17, 128), (33, 160), (40, 1000), (300, 64)]


@pytest.mark.parametrize("activations", ["MXFP8", "MXINT8", "FP16"])
def test_products_keep_within(activations: str, fence: Fence) -> None:
    native = library()

    def cases() -> Cases:
        for fmt, (out, inner), dtype in product(format_names(), WEIGHTS, TYPES):
            weight = NativeWeight(in_fences(quantize(torch.randn(out, inner), fmt), fence), native)
            bias = fence(torch.randn(out).to(dtype))
            for rows, exact in ((1, False), (3, False), (20, False), (70, False), (3, True)):
                weight.exact = exact
                weight._jobs.clear()
                x, y = fence(torch.randn(rows, inner).to(dtype)), fence(torch.empty(rows, out, dtype=dtype))
                product_of(native, weight, activations, x, y, bias)
                yield fmt, out, inner, dtype, rows, exact

    survives(cases())


def product_of(
    native: Library, weight: NativeWeight, activations: str, x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor
) -> None:
    job, kind = weight.job(activations, "floor"), TYPES[x.dtype]
    native.linear(job, x.data_ptr(), y.data_ptr(), bias.data_ptr(), len(x), kind, kind, 1)
