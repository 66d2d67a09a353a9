"""The kernels as torch's own operators, ``torch.ops.mx_cuda.*``: what ``torch.compile`` and ``torch.export`` can trace.

Each has a fake implementation, which tells shapes and dtypes without computing. Eager code calls the launchers
directly: an operator's dispatch costs more than a small layer's product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mx_plugin.formats.blocks import checked_dim
from mx_plugin.formats.packing import row_bytes
from mx_plugin.formats.philox import StochasticKey
from mx_plugin.formats.rules import cast_rule
from mx_plugin.formats.spec import BLOCK_SIZE, get_format

from . import casting, product


def _key(fields: Sequence[int] | None) -> StochasticKey | None:
    return None if fields is None else StochasticKey(*fields)


def fields(key: StochasticKey | None) -> list[int] | None:
    """A key as operators take it: seed, step, stream, call."""
    return None if key is None else [key.seed, key.step, key.stream, key.call]


@torch.library.custom_op("mx_cuda::quantize", mutates_args=())
def quantize(
    x: torch.Tensor, fmt: str, dim: int, rounding: str, scale_rule: str, key: Sequence[int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed elements and scales of x along ``dim``: the parts of an MXTensor."""
    return casting.quantize(x, cast_rule(fmt, rounding, scale_rule), checked_dim(x, dim), _key(key))


@quantize.register_fake
def _(
    x: torch.Tensor, fmt: str, dim: int, rounding: str, scale_rule: str, key: Sequence[int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    length, rows = x.shape[dim], x.numel() // x.shape[dim]
    width = row_bytes(length, get_format(fmt).element.bits)
    return x.new_empty((rows, width), dtype=torch.uint8), x.new_empty(
        (rows, -(-length // BLOCK_SIZE)), dtype=torch.uint8
    )


@torch.library.custom_op("mx_cuda::fake_quantize", mutates_args=())
def fake_quantize(
    x: torch.Tensor,
    fmt: str,
    dim: int,
    rounding: str,
    scale_rule: str,
    key: Sequence[int] | None,
    hadamard: Sequence[int] | None,
) -> torch.Tensor:
    """x cast and decoded along ``dim``, in its dtype, contiguous."""
    rule = cast_rule(fmt, rounding, scale_rule)
    return casting.fake_quantize(x, rule, checked_dim(x, dim), _key(key), _key(hadamard), None)


@fake_quantize.register_fake
def _(
    x: torch.Tensor,
    fmt: str,
    dim: int,
    rounding: str,
    scale_rule: str,
    key: Sequence[int] | None,
    hadamard: Sequence[int] | None,
) -> torch.Tensor:
    return x.new_empty(casting.cast_shape(x.shape, dim % x.dim(), hadamard is not None))


@torch.library.custom_op("mx_cuda::dequantize", mutates_args=())
def dequantize(elements: torch.Tensor, scales: torch.Tensor, fmt: str, length: int, dtype: torch.dtype) -> torch.Tensor:
    """Values (rows, length) of packed rows."""
    out = torch.empty((elements.shape[0], length), dtype=dtype, device=elements.device)
    return casting.dequantize(elements, scales, get_format(fmt).element, out)


@dequantize.register_fake
def _(elements: torch.Tensor, scales: torch.Tensor, fmt: str, length: int, dtype: torch.dtype) -> torch.Tensor:
    return elements.new_empty((elements.shape[0], length), dtype=dtype)


@torch.library.custom_op("mx_cuda::linear", mutates_args=())
def linear(
    x: torch.Tensor, elements: torch.Tensor, scales: torch.Tensor, fmt: str, activations: str, scale_rule: str
) -> torch.Tensor:
    """q(x) W^T in float32, (rows, out); x: (rows, in), W packed."""
    rule = cast_rule(activations, "nearest", scale_rule)
    # A shared-out reduction is a view of its parts' memory, which an operator must not return.
    return product.packed_linear(x, elements, scales, get_format(fmt).element, rule).contiguous()


@linear.register_fake
def _(
    x: torch.Tensor, elements: torch.Tensor, scales: torch.Tensor, fmt: str, activations: str, scale_rule: str
) -> torch.Tensor:
    return x.new_empty((x.shape[0], scales.shape[0]), dtype=torch.float32)
