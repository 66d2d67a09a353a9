"""``mx-plugin fpga bench``: how well the link is used, and how long a real layer takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from mx_plugin.formats import quantize

from . import emulation, layout, protocol
from .board import Board
from .elements import format_number
from .emulation import EmulatedWeight
from .errors import BoardError, DoesNotFit
from .protocol import Message
from .window import Request

_T = TypeVar("_T")

LINK_TARGET = 0.95
"""Share of the payload rate that the transport could carry."""

LAYER_TARGET_S = 5.0
"""Seconds to load a layer of 896 x 896 and multiply it once, on the simulated board."""

_BITS_A_BYTE = 10
"""On a UART: start, eight, stop."""


@dataclass(frozen=True)
class LinkSpeed:
    """How a bulk load uses the link. ``framing``: payload bytes a wire byte. ``efficiency``: payload carried, relative
    to the rate that ``compared_with`` names; None where that rate is not known. Seconds are medians, cycles of
    a simulated board the least: while other programs keep the host from sending it works on, which can only add."""

    payload_per_second: float
    framing: float
    efficiency: float | None
    compared_with: str

    @property
    def met(self) -> bool | None:
        return None if self.efficiency is None else self.efficiency >= LINK_TARGET


@dataclass(frozen=True)
class LayerSpeed:
    """One layer: seconds to load, seconds for a product of ``tokens`` tokens, and whether it is bit-exact.

    ``busy_cycles`` of one product; ``utilisation``: share of them in which the dot units multiplied.
    """

    format: str
    activations: str
    rows: int
    length: int
    tokens: int
    load_s: float
    product_s: float
    exact: bool
    busy_cycles: int
    utilisation: float

    @property
    def met(self) -> bool:
        return self.exact and self.load_s + self.product_s < LAYER_TARGET_S


def link_speed(board: Board, nbytes: int = 1 << 18, repeats: int = 9, baudrate: int | None = None) -> LinkSpeed:
    """Load the same weight again and again.

    A simulated board is judged in its own time: its transport carries a byte a cycle, and its clock stands still while
    it has nothing to do. A real one is judged by the clock on the wall and its baud rate.

    Args:
        nbytes: of the weight, at most half of the board's memory.
        baudrate: of a real serial port.

    Raises:
        DoesNotFit: the board's memory does not hold a load worth measuring.
    """
    requests, payload = _bulk(board, min(nbytes, board.hello.element_bytes // 2, board.hello.scale_bytes * 16))
    seconds, cycles = [], []
    before = board.link.statistics.bytes_sent
    for _ in range(repeats):
        first = board.counters().cycles
        seconds.append(_timed(lambda: board.link.exchange(requests))[0])
        cycles.append(board.counters().cycles - first)
    framing = payload * repeats / (board.link.statistics.bytes_sent - before)
    board.reset()
    rate = payload / statistics.median(seconds)
    if board.simulated:
        return LinkSpeed(rate, framing, payload / min(cycles), "a byte a cycle")
    if baudrate is not None:
        return LinkSpeed(rate, framing, rate * _BITS_A_BYTE / baudrate, f"{baudrate} baud")
    return LinkSpeed(rate, framing, None, "an unknown rate: give --baudrate")


def layer_speed(
    board: Board, fmt: str, activations: str, rows: int = 896, length: int = 896, tokens: int = 1, repeats: int = 5
) -> LayerSpeed:
    """Load a random layer, multiply it, and compare every bit with ``emulate``.

    Raises:
        BoardError: a size below 1; a layer that the board cannot take.
    """
    if min(rows, length, tokens) < 1:
        raise BoardError(f"a layer of {rows} x {length} with {tokens} tokens: each must be at least 1")
    draw = torch.Generator().manual_seed(0)
    w = quantize(torch.randn(rows, length, generator=draw), fmt)
    x = quantize(torch.randn(tokens, length, generator=draw), activations)
    load_s, weight = _timed(lambda: board.load_weight(w))
    before = board.counters()
    first_s, answered = _timed(lambda: board.run(weight, x))
    after = board.counters()
    taken = [first_s] + [_timed(lambda: board.run(weight, x))[0] for _ in range(repeats - 1)]
    board.unload_weight(weight)
    expected = emulation.product(x, EmulatedWeight(w))
    busy = after.busy_cycles - before.busy_cycles
    return LayerSpeed(
        fmt, activations, rows, length, tokens, load_s, statistics.median(taken),
        bool(np.array_equal(answered.view(np.uint32), expected.view(np.uint32))),
        busy, (after.passes - before.passes) / max(busy, 1),
    )  # fmt: skip


def _bulk(board: Board, nbytes: int) -> tuple[Sequence[Request], int]:
    """Requests that load a weight of about ``nbytes``, and its bytes."""
    fmt, blocks = board.hello.format_names[0], min(8, board.hello.max_blocks)
    elements, scales = layout.weight_sizes(board.geometry.group_rows, blocks, fmt, board.geometry)
    groups = nbytes // (elements + scales)
    if not groups:
        raise DoesNotFit(
            f"half the memory of board {board.name} ({board.hello.element_bytes} bytes for elements, "
            f"{board.hello.scale_bytes} for scales) does not hold {elements + scales} bytes: too small to be measured"
        )
    begin = protocol.LoadBegin(0, format_number(fmt), blocks, groups, 0, elements * groups, 0, scales * groups)
    data = np.random.default_rng(0).integers(0, 256, (elements + scales) * groups, np.uint8).tobytes()
    size = min(protocol.LOAD_CHUNK_DATA, (board.hello.max_payload - 8) & ~63)
    requests: list[Request] = [(Message.LOAD_BEGIN, begin.encode())]
    for offset in range(0, len(data), size):
        requests.append((Message.LOAD_CHUNK, protocol.load_chunk(0, offset, data[offset : offset + size])))
    requests.append((Message.LOAD_COMMIT, protocol.handle_only(0)))
    return requests, len(data)


def _timed(run: Callable[[], _T]) -> tuple[float, _T]:
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result
