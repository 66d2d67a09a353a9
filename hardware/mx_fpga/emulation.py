"""A board's exact arithmetic on the host: the same bits as :meth:`Board.run`, without a board."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mx_plugin.formats import MXTensor

from . import arithmetic

TOKENS = 64
"""Tokens multiplied at a time: what is computed for them stays in the processor's caches."""


class EmulatedWeight:
    """A weight of shape (out, in), decoded when it is first multiplied."""

    def __init__(self, packed: MXTensor) -> None:
        self.packed = packed
        self._operand: arithmetic.Operand | None = None

    @property
    def operand(self) -> arithmetic.Operand:
        if self._operand is None:
            self._operand = decode(self.packed)
        return self._operand

    def forget(self) -> None:
        """Free the decoded copy, 4 bytes an element (8 for E5M2)."""
        self._operand = None


def decode(packed: MXTensor) -> arithmetic.Operand:
    """Rows of a tensor of shape (rows, K), blocked along K, on any device."""
    codes = packed.element_codes().cpu().numpy()
    return arithmetic.decode(codes, packed.scale_codes().cpu().numpy(), packed.format.name)


def product(x: MXTensor, weight: EmulatedWeight) -> NDArray[np.float32]:
    """X W^T for x of shape (tokens, in): float32 of shape (tokens, out)."""
    tokens, operand = decode(x), weight.operand
    parts = (rows(tokens, slice(first, first + TOKENS)) for first in range(0, tokens.rows, TOKENS))
    return np.concatenate([arithmetic.matmul(part, operand) for part in parts] or [np.zeros((0, operand.rows), "f4")])


def rows(operand: arithmetic.Operand, part: slice) -> arithmetic.Operand:
    """Some rows of a decoded operand."""
    return replace(
        operand,
        digits=tuple(digit[:, part] for digit in operand.digits),
        scales=operand.scales[:, part],
        kinds=None if operand.kinds is None else operand.kinds[:, part],
        signs=None if operand.signs is None else operand.signs[:, part],
    )
