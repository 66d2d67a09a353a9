"""How weights, activations and results are ordered in a board's streams. Pure functions on numpy arrays.

A weight is read in the order in which it is multiplied: group by group, block by block, turn by turn. Row
(g * group + turn) * rows + r is multiplied by row unit r at that turn of group g.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .elements import BLOCK, element_table, passes
from .protocol import Hello

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Geometry:
    """The part of HELLO on which streams depend."""

    rows: int
    columns: int
    group: int

    @classmethod
    def of(cls, hello: Hello) -> Geometry:
        return cls(hello.rows, hello.columns, hello.group)

    @property
    def group_rows(self) -> int:
        """Weight rows in a group."""
        return self.rows * self.group

    @property
    def word_bytes(self) -> int:
        """Bytes of a word of the element memory; weights start at multiples of it."""
        return self.rows * BLOCK

    def groups(self, rows: int) -> int:
        """Groups that a weight of so many rows takes; the last is padded with zeros."""
        return -(-rows // self.group_rows)


def block_bytes(fmt: str) -> int:
    """Bytes of a block's elements: 16, 24 or 32."""
    return element_table(fmt).bits * BLOCK // 8


def weight_sizes(rows: int, blocks: int, fmt: str, geometry: Geometry) -> tuple[int, int]:
    """Bytes of (elements, scales) of a weight on the board."""
    padded = geometry.groups(rows) * geometry.group_rows
    return padded * blocks * block_bytes(fmt), padded * blocks


def weight_stream(elements: Bytes, scales: Bytes, fmt: str, geometry: Geometry) -> bytes:
    """The stream of LOAD_CHUNK from an ``MXTensor``'s parts: all elements, then all scales.

    ``elements``: packed rows, uint8 of shape (rows, ceil(K * bits / 8)); ``scales``: uint8 of shape (rows, nblocks).
    A ragged last block is filled with zeros, and so are the rows that fill the last group.
    """
    rows, blocks = scales.shape
    padded = geometry.groups(rows) * geometry.group_rows
    width = blocks * block_bytes(fmt)
    whole = np.zeros((padded, width), np.uint8)
    whole[:rows, : elements.shape[1]] = elements
    shape = (geometry.groups(rows), geometry.group, geometry.rows, blocks)
    ordered = whole.reshape(*shape, block_bytes(fmt)).transpose(0, 3, 1, 2, 4)
    whole_scales = np.zeros((padded, blocks), np.uint8)
    whole_scales[:rows] = scales
    return ordered.tobytes() + whole_scales.reshape(shape).transpose(0, 3, 1, 2).tobytes()


def activation_stream(elements: Bytes, scales: Bytes, fmt: str) -> bytes:
    """The stream of ACTIVATIONS from an ``MXTensor``'s parts: token by token, elements and then scales.

    Shapes as in :func:`weight_stream`, with tokens for rows.
    """
    tokens, blocks = scales.shape
    stream = np.zeros((tokens, blocks * (block_bytes(fmt) + 1)), np.uint8)
    stream[:, : elements.shape[1]] = elements
    stream[:, blocks * block_bytes(fmt) :] = scales
    return stream.tobytes()


def groups_per_run(tokens: int, max_payload: int, geometry: Geometry) -> int:
    """Groups whose results fit one reply."""
    return max_payload // (4 * tokens * geometry.group_rows)


def results(payload: bytes, tokens: int, geometry: Geometry) -> NDArray[np.float32]:
    """Results in a RUN's reply: float32 of shape (tokens, groups * group_rows), rows in the weight's order.

    Raises:
        ValueError: the payload is not a whole number of groups.
    """
    if len(payload) % (4 * tokens * geometry.group_rows):
        raise ValueError(
            f"{len(payload)} bytes are no whole number of groups of {geometry.group_rows} x {tokens} float32"
        )
    return np.frombuffer(payload, "<f4").reshape(-1, tokens).T.copy()


def run_cycles(groups: int, blocks: int, weights: str, activations: str, geometry: Geometry) -> int:
    """Cycles in which the dot units multiply for so many groups; start-up and draining come on top."""
    return groups * blocks * geometry.group * passes(weights, activations)
