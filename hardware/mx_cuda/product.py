"""Launches the linear kernels: how many programs share a layer, and what sums their parts."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton

from mx_plugin.formats.rules import CastRule
from mx_plugin.formats.spec import Element

from .casting import INTERPRETED, element_constants, on_device, split
from .kernels.linear import rows_kernel, tile_kernel

FEW = 2
"""Rows that are multiplied without the matrix unit."""
PROGRAMS = 256
"""Programs that one layer should have at least, else its reduction is shared out; about two for each of an H100's
multiprocessors. Not tuned on a device."""
TILE_N, TILE_M, TALL_M = 32, 16, 64
ROWS_N, ROWS_BLOCKS = 8, 8


def packed_linear(
    x: torch.Tensor, elements: torch.Tensor, scales: torch.Tensor, element: Element, activations: CastRule
) -> torch.Tensor:
    """q(x) W^T in float32: (rows, out). x: (rows, in), floating; elements and scales of W (out, in), packed.

    Errors come from the order of float32 sums alone, whatever the scales. A reduction that is shared out is summed
    part by part, in their order.
    """
    a, a_scales = split(x, activations)
    rows, length = x.shape
    out_features, blocks = scales.shape
    few = rows <= FEW
    n = ROWS_N if few else TILE_N
    per_part, parts = shares(blocks, triton.cdiv(out_features, TILE_N))
    out = torch.empty((parts, rows, out_features), dtype=torch.float32, device=x.device)
    sizes = (out_features, length, blocks, elements.shape[1], a.shape[1], per_part)
    grid: Any = (triton.cdiv(out_features, n), parts)
    with on_device(x):
        if few:
            rows_kernel[grid](
                elements, scales, a, a_scales, out, *sizes, **element_constants(element),
                ROWS=rows, N=n, BLOCKS=ROWS_BLOCKS,
            )  # fmt: skip
        else:
            m = TILE_M if rows <= TILE_M else TALL_M
            tile_kernel[(*grid, triton.cdiv(rows, m))](
                elements, scales, a, a_scales, out, rows, *sizes, **element_constants(element),
                M=m, N=n, WIDE=INTERPRETED,
            )  # fmt: skip
    return out[0] if parts == 1 else out.sum(0)


@cache
def shares(blocks: int, columns: int) -> tuple[int, int]:
    """Blocks of the reduction for each program, and how many parts that makes.

    >>> shares(128, 512), shares(128, 128), shares(28, 28)
    ((128, 1), (64, 2), (8, 4))
    """
    wanted = max(1, min(-(-PROGRAMS // columns), blocks // ROWS_BLOCKS))
    per_part = -(-blocks // wanted)
    per_part = -(-per_part // ROWS_BLOCKS) * ROWS_BLOCKS if wanted > 1 else blocks
    return per_part, -(-blocks // per_part)
