"""Launches the cast and decoding kernels: tensors to grids, strides and constants.

Functions take a ``CastRule`` and tensors that the kernels know (see ``takes``); their results have the bits of
``mx_plugin.formats``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from struct import pack as struct_pack
from struct import unpack as struct_unpack
from typing import Any, NamedTuple

import torch
import triton

from mx_plugin.errors import FormatError
from mx_plugin.formats.packing import row_bytes
from mx_plugin.formats.philox import StochasticKey
from mx_plugin.formats.rules import CastRule, max_code
from mx_plugin.formats.spec import BLOCK_SIZE, Element

from .kernels import cast as kernel
from .kernels.decode import decode_kernel

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether the kernels were made for Triton's interpreter, which runs them on CPU tensors."""

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16))

LANES = 64
"""Blocks of one program."""
DECODED_AT_ONCE = 1024

NO_KEY = (0, 0, 0, 0)


def takes(x: torch.Tensor, rule: CastRule) -> bool:
    """Whether the kernels cast this tensor; the core casts what they do not, and words the errors."""
    return x.device.type == DEVICE and x.dtype in DTYPES and x.dim() > 0 and x.numel() > 0 and known(rule)


def known(rule: CastRule) -> bool:
    """Whether the kernels know the format: blocks of 32, E8M0 scales, elements of 4, 6 or 8 bits."""
    return rule.block_size == BLOCK_SIZE and rule.format.element.bits in (4, 6, 8)


def on_device(x: torch.Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: make that x's."""
    if INTERPRETED or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)


class View(NamedTuple):
    """A tensor as (before, length, after)."""

    before: int
    length: int
    after: int
    strides: tuple[int, int, int]

    @property
    def turned(self) -> View:
        """(before, length, 1) as (1, length, before)."""
        return View(1, self.length, self.before, (0, self.strides[1], self.strides[0]))


def view_of(x: torch.Tensor, dim: int) -> View | None:
    """Where the elements lie along ``dim``, or None where no three strides tell it."""
    shape = (x.shape[:dim].numel(), x.shape[dim], x.shape[dim + 1 :].numel())
    try:
        strides = x.view(shape).stride()
    except RuntimeError:
        return None
    return View(*shape, (strides[0], strides[1], strides[2]))


def quantize(x: torch.Tensor, rule: CastRule, dim: int, key: StochasticKey | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed elements and scales of ``mx_plugin.quantize``: the parts of an MXTensor."""
    rows, length = x.numel() // x.shape[dim], x.shape[dim]
    elements = torch.empty((rows, row_bytes(length, rule.format.element.bits)), dtype=torch.uint8, device=x.device)
    scales = torch.empty((rows, -(-length // BLOCK_SIZE)), dtype=torch.uint8, device=x.device)
    _launch(x, rule, dim, key, None, elements, scales, kernel.PACKED)
    return elements, scales


def fake_quantize(
    x: torch.Tensor,
    rule: CastRule,
    dim: int,
    key: StochasticKey | None,
    hadamard: StochasticKey | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """``mx_plugin.fake_quantize`` without gradients.

    Raises:
        FormatError: ``out`` has another shape than the result.
    """
    shape = cast_shape(x.shape, dim, hadamard is not None)
    if out is not None and out.shape != shape:
        raise FormatError(f"out has shape {tuple(out.shape)}, the result {tuple(shape)}")
    if out is None:
        result = torch.empty(shape, dtype=x.dtype, device=x.device)
    elif view_of(out, dim) is None or _overlaps(out, x):
        return out.copy_(
            fake_quantize(x, rule, dim, key, hadamard, torch.empty_like(out, memory_format=torch.contiguous_format))
        )
    else:
        result = out
    _launch(x, rule, dim, key, hadamard, result, None, kernel.VALUES)
    return result


def split(x: torch.Tensor, rule: CastRule) -> tuple[torch.Tensor, torch.Tensor]:
    """Elements without their scales (bfloat16, exact, padded to whole blocks with zeros) and scales of x."""
    rows, length = x.shape
    blocks = -(-length // BLOCK_SIZE)
    elements = torch.empty((rows, blocks * BLOCK_SIZE), dtype=torch.bfloat16, device=x.device)
    scales = torch.empty((rows, blocks), dtype=torch.uint8, device=x.device)
    _launch(x, rule, 1, None, None, elements, scales, kernel.ELEMENTS)
    return elements, scales


def dequantize(elements: torch.Tensor, scales: torch.Tensor, element: Element, out: torch.Tensor) -> torch.Tensor:
    """Decode packed rows into ``out``: contiguous, as many elements, the blocked dimension last."""
    count = out.numel()
    if count:
        with on_device(elements):
            decode_kernel[(triton.cdiv(count, DECODED_AT_ONCE),)](
                elements, scales, out, count, out.shape[-1], scales.shape[1], elements.shape[1],
                **element_constants(element), WIDTH=DECODED_AT_ONCE,
            )  # fmt: skip
    return out


def cast_shape(shape: Sequence[int], dim: int, rotated: bool) -> torch.Size:
    """Shape of a cast tensor: a transform rounds its dimension up to whole blocks."""
    if not rotated:
        return torch.Size(shape)
    return torch.Size((*shape[:dim], -(-shape[dim] // BLOCK_SIZE) * BLOCK_SIZE, *shape[dim + 1 :]))


@cache
def element_constants(element: Element) -> dict[str, Any]:
    """What kernels must know of an element type."""
    return {
        "BITS": element.bits,
        "MANTISSA": element.mantissa_bits,
        "EMIN": element.emin,
        "MAX_CODE": max_code(element),
        "INTEGER": element.is_integer,
    }


@cache
def _rule_constants(rule: CastRule) -> dict[str, Any]:
    return {
        "OFFSET": rule.offset,
        "DOUBLED": rule.doubled,
        "LEAST_BITS": _bits(rule.least),
        "MAX_BITS": _bits(rule.max),
        "STOCHASTIC": rule.stochastic,
        **element_constants(rule.format.element),
    }


def _bits(value: float) -> int:
    found: int = struct_unpack("<i", struct_pack("<f", value))[0]
    return found


def _words(key: StochasticKey | None) -> tuple[int, int, int, int]:
    """The key's fields as signed numbers: of one type, so that no other kernel is compiled for large ones."""
    if key is None:
        return NO_KEY
    seed, step, stream, call = (n - (1 << 32) if n >> 31 else n for n in (key.seed, key.step, key.stream, key.call))
    return seed, step, stream, call


def _overlaps(out: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether writing ``out`` may destroy what is still to be read: same memory, other places."""
    if out.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
        return False
    return (out.dtype, out.data_ptr(), out.stride(), out.shape) != (x.dtype, x.data_ptr(), x.stride(), x.shape)


def _launch(
    x: torch.Tensor,
    rule: CastRule,
    dim: int,
    key: StochasticKey | None,
    hadamard: StochasticKey | None,
    out: torch.Tensor,
    scales: torch.Tensor | None,
    write: int,
) -> None:
    source = view_of(x, dim)
    if source is None:
        x = x.contiguous()
        source = view_of(x, dim)
    assert source is not None
    target = view_of(out, dim) if scales is None else View(1, 0, 1, (out.shape[1], 1, out.shape[1]))
    assert target is not None
    blocks = -(-source.length // BLOCK_SIZE)
    out_length = source.length if scales is None and hadamard is None else blocks * BLOCK_SIZE
    counted = out_length if hadamard is not None else source.length
    index = (counted * source.after, source.after, 1)
    if source.after == 1 and source.strides[0] < source.strides[1]:
        source, index = source.turned, (0, 1, counted)
        target = target.turned if scales is None else target
    columns = source.after > 1
    lanes = source.before * blocks
    chunks = triton.cdiv(source.after, LANES)
    grid = (lanes * chunks,) if columns else (triton.cdiv(lanes, LANES),)
    with on_device(x):
        kernel.cast_kernel[grid](
            x, out, out if scales is None else scales,
            source.length, source.after, blocks, lanes, chunks, out_length, 0 if scales is None else out.shape[1],
            *source.strides, *target.strides, *index, *_words(key), *_words(hadamard),
            **_rule_constants(rule), WRITE=write, DRAW=_draw(index, columns), ROTATED=hadamard is not None,
            COLUMNS=columns, LANES=LANES,
        )  # fmt: skip


def _draw(index: tuple[int, int, int], columns: bool) -> int:
    """How words are drawn: four at once where four neighbours share a counter."""
    before, length, after = index
    if length == 1 and before % 4 == 0 and (not columns or after % 4 == 0):
        return kernel.ALONG
    if columns and after == 1 and before % 4 == 0 and length % 4 == 0:
        return kernel.ACROSS
    return kernel.SINGLY
