"""MXFP8 products by the matrix units of Blackwell cards, through torch's ``scaled_mm``.

Both operands stay packed: E4M3 elements as they lie, E8M0 scales in the order that cuBLAS reads. **Not run on a card**:
the order and the arguments are tested against a model of them, and ``serves`` compares a product with the decoded one
before the first use.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch.nn import functional

from mx_plugin import formats
from mx_plugin.formats import MXTensor
from mx_plugin.formats.spec import BLOCK_SIZE

from . import casting
from .capability import BLACKWELL

FORMAT = "MXFP8"
TILE_ROWS, TILE_BLOCKS = 128, 4
ALIGNED = 16
"""Columns of the result come in as many, as cuBLAS wants 8-bit operands."""

ROUNDING = 2.0**-8
"""Largest error of a result that is rounded to bfloat16, relative to sum |x||w|."""

log = logging.getLogger("mx_cuda")


def takes(packed: MXTensor) -> bool:
    """Whether this weight (out, in) can be an operand: MXFP8, whole blocks, aligned."""
    out_features, in_features = packed.shape
    return packed.format.name == FORMAT and not in_features % BLOCK_SIZE and not out_features % ALIGNED


def swizzled(scales: torch.Tensor) -> torch.Tensor:
    """Scales (rows, blocks), uint8, in cuBLAS's order, flat, filled up with zeros to whole tiles of 128 x 4.

    cuBLAS, "1D block scaling factors layout": row r and block c of a tile lie at (r % 32) * 16 + (r // 32) * 4 + c,
    tiles one after the other, those of one group of rows first.
    """
    rows, blocks = scales.shape
    padded = functional.pad(scales, (0, -blocks % TILE_BLOCKS, 0, -rows % TILE_ROWS))
    tiles = padded.view(-1, 4, 32, padded.shape[1] // TILE_BLOCKS, TILE_BLOCKS)
    return tiles.permute(0, 3, 2, 1, 4).reshape(-1)


def product(a: MXTensor, w: MXTensor, w_scales: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """a W^T + bias in bfloat16, (rows, out). a: (rows, in), w: (out, in), both MXFP8; ``w_scales``: w's, swizzled."""
    recipe, order = functional.ScalingType.BlockWise1x32, functional.SwizzleType.SWIZZLE_32_4_4
    return functional.scaled_mm(
        a.elements.view(torch.float8_e4m3fn),
        w.elements.view(torch.float8_e4m3fn).t(),
        swizzled(a.scales).view(torch.float8_e8m0fnu),
        recipe,
        w_scales.view(torch.float8_e8m0fnu),
        recipe,
        swizzle_a=order,
        swizzle_b=order,
        bias=None if bias is None else bias.to(torch.bfloat16),
        output_dtype=torch.bfloat16,
    )


@cache
def serves(device: torch.device) -> bool:
    """Whether the card of ``device`` has such units, torch drives them, and their products are right."""
    if casting.INTERPRETED or device.type != "cuda" or torch.cuda.get_device_capability(device) < BLACKWELL:
        return False
    problem = _fault(device)
    if problem:
        log.warning("the card's own MXFP8 products are not used, bfloat16 ones are: %s", problem)
    return not problem


def _fault(device: torch.device) -> str:
    """What is wrong with a product of 160 x 256 by 256 x 96; empty if it is right to the rounding of its result."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(rows, 256, generator=generator).to(device) for rows in (160, 96))
    x[:, 32:64] *= 2.0**40
    y[:, 32:64] *= 2.0**-40
    a, w = formats.quantize(x, FORMAT), formats.quantize(y, FORMAT)
    try:
        mine = product(a, w, swizzled(w.scales), None).double()
    except Exception as error:  # whatever torch may raise: the reason to do without it
        return f"{type(error).__name__}: {error}"
    left, right = a.dequantize(torch.float32).double(), w.dequantize(torch.float32).double()
    off = float(((mine - left @ right.t()).abs() / (left.abs() @ right.abs().t())).max())
    return "" if off <= ROUNDING else f"a product is off by {off:.1e} of sum |x||w|"
