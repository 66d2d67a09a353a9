"""A weight as a board takes it: packed rows, in chunks that fit its memory."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from mx_plugin.errors import FormatError
from mx_plugin.formats import MXTensor

from . import layout
from .elements import BLOCK
from .errors import DoesNotFit
from .layout import Geometry
from .memory import Memory
from .protocol import Hello

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows of a weight that lie on the board together: all of them, unless the weight exceeds the memory."""

    first_row: int
    rows: int
    groups: int


@dataclass(frozen=True, eq=False)
class BoardWeight:
    """Packed rows as in ``MXTensor``, kept on the host too so that they can be loaded again."""

    elements: layout.Bytes
    scales: layout.Bytes
    format: str
    rows: int
    length: int
    chunks: tuple[Chunk, ...]

    @property
    def blocks(self) -> int:
        return self.scales.shape[1]


def prepare(packed: MXTensor, hello: Hello) -> BoardWeight:
    """Check a weight of shape (out, in), blocked along ``in``, and cut it into chunks.

    Raises:
        FormatError: not two-dimensional, blocked along ``out``, or not a format of this board.
        DoesNotFit: a row is longer than the board can take, or not even a group of rows fits; says the sizes.
    """
    if len(packed.shape) != 2 or packed.dim != 1:
        raise FormatError(
            f"a board takes weights of shape (out, in) blocked along in, not {tuple(packed.shape)} along "
            f"{packed.dim}: quantize(weight, fmt, dim=-1)"
        )
    fmt = check_format(packed, hello)
    rows, length = packed.shape
    blocks = packed.scales.shape[1]
    if not rows or not 0 < blocks <= hello.max_blocks:
        raise DoesNotFit(
            f"a weight of {rows} rows of {length} elements: board {hello.name} multiplies rows of 1 to "
            f"{hello.max_blocks * BLOCK} elements"
        )
    chunks = _chunks(rows, blocks, fmt, hello)
    if len(chunks) > 1:
        log.warning(
            "a weight of %d x %d %s (%d bytes) exceeds the memory of board %s (%d bytes of elements): it is "
            "multiplied in %d chunks of %d rows, each loaded anew for every product",
            rows, length, fmt, packed.nbytes, hello.name, hello.element_bytes, len(chunks), chunks[0].rows,
        )  # fmt: skip
    return BoardWeight(as_array(packed.elements), as_array(packed.scales), fmt, rows, length, chunks)


def check_format(packed: MXTensor, hello: Hello) -> str:
    """The format's name.

    Raises:
        FormatError: this board does not multiply it.
    """
    name = packed.format.name
    if name not in hello.format_names:
        raise FormatError(f"board {hello.name} does not multiply {name}; it knows {', '.join(hello.format_names)}")
    return name


def as_array(tensor: Any) -> layout.Bytes:
    """A torch tensor of bytes as a numpy array; shares its memory where it is on the CPU."""
    array: layout.Bytes = tensor.detach().cpu().contiguous().numpy()
    return array


def _chunks(rows: int, blocks: int, fmt: str, hello: Hello) -> tuple[Chunk, ...]:
    geometry = Geometry.of(hello)
    most = Memory(hello).groups_that_fit(blocks, fmt) * geometry.group_rows
    if not most:
        elements, scales = layout.weight_sizes(geometry.group_rows, blocks, fmt, geometry)
        raise DoesNotFit(
            f"{geometry.group_rows} rows of {blocks * BLOCK} {fmt} elements take {elements} bytes and {scales} of "
            f"scales; board {hello.name} holds {hello.element_bytes} and {hello.scale_bytes}"
        )
    counts = [(first, min(most, rows - first)) for first in range(0, rows, most)]
    return tuple(Chunk(first, count, geometry.groups(count)) for first, count in counts)
