"""Tensors seen as blocks along one dimension, without moving that dimension.

A tensor of shape (*before, K, *after) is viewed as (groups, block, after): ``groups`` counts
``before`` and the blocks along K, C order; ``after`` is left out where it is 1. The blocked axis is
always axis 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import FormatError

AT_ONCE = 1 << 16
"""Elements per pass on a CPU: their float32 scratch then stays in a second-level cache."""

_GRAIN = 1 << 15
"""Elements that torch gives to one thread at least."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the blocks of a tensor lie: its ``shape``, the ``dim`` blocked and the ``block`` size."""

    shape: torch.Size
    dim: int
    block: int

    @property
    def length(self) -> int:
        """K, elements along the blocked dimension."""
        return self.shape[self.dim]

    @property
    def blocks(self) -> int:
        """Blocks along the blocked dimension, the ragged last one included."""
        return -(-self.length // self.block)

    @property
    def padded(self) -> torch.Size:
        """The shape with K rounded up to whole blocks."""
        return self._with(self.blocks * self.block)

    @property
    def scales(self) -> torch.Size:
        """The shape with one entry per block along ``dim``."""
        return self._with(self.blocks)

    @property
    def rows(self) -> int:
        """Elements of the tensor per element along ``dim``."""
        return (self.shape[: self.dim] + self.shape[self.dim + 1 :]).numel()

    def _with(self, length: int) -> torch.Size:
        return torch.Size((*self.shape[: self.dim], length, *self.shape[self.dim + 1 :]))


def checked_dim(x: torch.Tensor, dim: int) -> int:
    """``dim`` counted from the front.

    Raises:
        FormatError: a tensor without dimensions, or ``dim`` out of range.
    """
    rank = x.dim()
    if rank == 0:
        raise FormatError("a tensor without dimensions has no blocks; give it one with x.reshape(1)")
    if not -rank <= dim < rank:
        raise FormatError(f"dim {dim} is out of range for shape {tuple(x.shape)}; valid: {-rank}..{rank - 1}")
    return dim % rank


def padded(x: torch.Tensor, dim: int, block: int) -> torch.Tensor:
    """``x`` itself, or with zeros appended along ``dim`` (counted from the front) to whole blocks."""
    missing = -x.shape[dim] % block
    if not missing:
        return x
    return torch.nn.functional.pad(x, [0, 0] * (x.dim() - 1 - dim) + [0, missing])


def to_blocks(x: torch.Tensor, dim: int, block: int) -> torch.Tensor:
    """View (or, where ragged or strided, copy) a non-empty ``x`` as (groups, block[, after])."""
    x = padded(x, dim, block).contiguous()
    after = x.shape[dim + 1 :].numel()
    return x.view(-1, block) if after == 1 else x.view(-1, block, after)


def from_blocks(blocks: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Undo :func:`to_blocks`: a contiguous tensor of the layout's shape."""
    whole = blocks.view(layout.padded)
    if layout.length % layout.block == 0:
        return whole
    return whole.narrow(layout.dim, 0, layout.length).contiguous()


def pieces(blocks: torch.Tensor) -> list[slice]:
    """Slices of the groups of non-empty blocks: cache-sized on a CPU, everything at once elsewhere."""
    groups = blocks.shape[0]
    if blocks.device.type != "cpu":
        return [slice(0, groups)]
    at_once = max(AT_ONCE, _GRAIN * torch.get_num_threads())
    step = max(at_once * groups // blocks.numel(), 1)
    return [slice(start, start + step) for start in range(0, groups, step)]
