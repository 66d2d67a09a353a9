"""Does a board do what docs/fpga.md says? Small products in every pair of formats, refusals, noise on the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from mx_plugin.formats import MXTensor, quantize

from . import emulation, layout, protocol
from .board import Board
from .elements import BLOCK, element_table
from .emulation import EmulatedWeight
from .errors import BoardError, Refused
from .framing import encode_frame
from .protocol import EnergySource, Message, Status


@dataclass(frozen=True)
class Outcome:
    """One check; ``fault`` is empty where it passed."""

    name: str
    fault: str = ""
    detail: str = ""

    @property
    def passed(self) -> bool:
        return not self.fault


Check = Callable[[Board], str]
"""Returns a detail; raises BoardError where the board is at fault."""


class _Fault(BoardError):
    pass


def run_selftest(board: Board) -> Iterator[Outcome]:
    """All checks, one after the other; a board that fails one is still asked the next."""
    for name, check in _checks(board):
        try:
            yield Outcome(name, detail=check(board))
        except BoardError as error:
            yield Outcome(name, fault=str(error))


def any_codes(rows: int, length: int, fmt: str, seed: int) -> MXTensor:
    """Every element code the format has, NaN and infinities included; scales near 1 and at both ends, some NaN."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << element_table(fmt).bits, (rows, length), generator=draw).to(torch.uint8)
    scales = torch.randint(110, 144, (rows, -(-length // BLOCK)), generator=draw).to(torch.uint8)
    kind = torch.rand(scales.shape, generator=draw)
    for low, scale in ((0.00, 0), (0.03, 254), (0.06, 255)):
        scales[(kind >= low) & (kind < low + 0.03)] = scale
    return MXTensor.from_codes(codes, scales, fmt)


def _checks(board: Board) -> Iterator[tuple[str, Check]]:
    yield "echoes of all sizes", _echoes
    yield "noise on the line", _noise
    yield "refusals", _refusals
    for weights, activations in product(board.hello.format_names, repeat=2):
        yield f"{weights}/{activations}", _pair(weights, activations)
    yield "long rows that cancel", _long_rows
    yield "many tokens and rows", _many
    yield "weights side by side", _side_by_side
    yield "counters", _counters
    yield "energy", _energy


def _echoes(board: Board) -> str:
    sizes = [0, 1, 2, 252, 253, 254, 255, 256, 508, 509, 510, board.hello.max_payload]
    payloads = [bytes(size) for size in sizes] + [bytes(1 + i % 255 for i in range(size)) for size in sizes]
    replies = board.link.exchange((Message.PING, payload) for payload in payloads)
    wrong = [len(payload) for payload, reply in zip(payloads, replies, strict=True) if payload != reply]
    if wrong:
        raise _Fault(f"payloads of {wrong} bytes came back changed")
    return f"{len(payloads)} payloads up to {sizes[-1]} bytes"


def _noise(board: Board) -> str:
    frame = encode_frame(protocol.encode_request(Message.RESET, 1))
    broken = bytes([frame[0], frame[1] ^ 1]) + frame[2:]
    before = board.counters().frames_bad
    for noise in (b"\x55" * 5000, bytes(100), broken, frame[:-3], b"\xff\x01\0"):
        board.link.disturb(noise)
        board.ping(b"still there?")
    noticed = board.counters().frames_bad - before
    if not noticed:
        raise _Fault("damaged frames are not counted in frames_bad")
    return f"{noticed} damaged frames counted"


def _refusals(board: Board) -> str:
    beyond = board.hello.element_bytes + board.geometry.word_bytes
    rows = board.geometry.group_rows
    sizes = layout.weight_sizes(rows, 1, board.hello.format_names[0], board.geometry)
    begin = protocol.LoadBegin(0, 0, 1, 1, beyond, sizes[0], 0, sizes[1])
    last = board.hello.handles - 1
    board.reset()
    cases = [
        (Message.RUN, protocol.run(last, 1, 0, 1), Status.BAD_HANDLE),
        (Message.LOAD_COMMIT, protocol.handle_only(last), Status.NOT_LOADING),
        (Message.LOAD_BEGIN, begin.encode(), Status.OUT_OF_MEMORY),
        (Message.LOAD_BEGIN, b"\0", Status.BAD_LENGTH),
        (Message.ACTIVATIONS, protocol.activations(1, 0, board.hello.columns + 1, 1, 0, b""), Status.BAD_SHAPE),
    ]
    for message, payload, expected in cases:
        try:
            board.link.request(message, payload)
        except Refused as refused:
            if refused.status == expected:
                continue
            raise _Fault(f"{message.name} should be refused with {expected.name}; {refused}") from refused
        raise _Fault(f"{message.name} should be refused with {expected.name}, but was taken")
    return f"{len(cases)} requests refused as they should be"


def _pair(weights: str, activations: str) -> Check:
    def check(board: Board) -> str:
        rows, length = 2 * board.geometry.group_rows + 3, 2 * BLOCK + 5
        w = any_codes(rows, length, weights, 1)
        x = any_codes(2 * board.hello.columns + 1, length, activations, 2)
        return _same(board, w, x)

    return check


def _long_rows(board: Board) -> str:
    """Halves that cancel but for the roundings on the way: the order of additions shows in the last bits."""
    blocks = min(board.hello.max_blocks, 64)
    half = torch.randn(3, blocks * BLOCK // 2, generator=torch.Generator().manual_seed(3))
    w = quantize(torch.cat((half, half), 1), board.hello.format_names[0])
    x = quantize(torch.cat((half, -half), 1) * 1.001, board.hello.format_names[0])
    return _same(board, w, x)


def _many(board: Board) -> str:
    rows, tokens = 5 * board.geometry.group_rows + 1, 4 * board.hello.columns + 1
    fmt = board.hello.format_names[-1]
    return _same(board, any_codes(rows, 3 * BLOCK, fmt, 4), any_codes(tokens, 3 * BLOCK, fmt, 5))


def _side_by_side(board: Board) -> str:
    names = board.hello.format_names
    weights = [any_codes(board.geometry.group_rows, BLOCK, names[i % len(names)], 10 + i) for i in range(4)]
    loaded = [board.load_weight(w) for w in weights]
    for _ in range(2):
        for w, on_board in zip(weights, loaded, strict=True):
            x = any_codes(1, BLOCK, w.format.name, 20)
            _compare(board.run(on_board, x), emulation.product(x, EmulatedWeight(w)))
    for on_board in loaded:
        board.unload_weight(on_board)
    return f"{len(weights)} weights, each multiplied twice"


def _counters(board: Board) -> str:
    fmt = board.hello.format_names[0]
    w, x = any_codes(board.geometry.group_rows, 2 * BLOCK, fmt, 6), any_codes(1, 2 * BLOCK, fmt, 7)
    on_board = board.load_weight(w)
    before = board.counters()
    board.run(on_board, x)
    after = board.counters()
    board.unload_weight(on_board)
    passes = after.passes - before.passes
    due = layout.run_cycles(1, 2, fmt, fmt, board.geometry)
    if passes != due:
        raise _Fault(f"the dot units multiplied for {passes} cycles, not for {due}")
    if after.busy_cycles - before.busy_cycles < passes or after.cycles - before.cycles < passes:
        raise _Fault(f"fewer cycles than passes: {before} and then {after}")
    return f"{passes} passes in {after.busy_cycles - before.busy_cycles} busy cycles"


def _energy(board: Board) -> str:
    first, second = board.read_energy(), board.read_energy()
    if first.source is not board.hello.energy:
        raise _Fault(f"HELLO says energy is {board.hello.energy.name}, READ_ENERGY says {first.source.name}")
    if first.source is EnergySource.NONE:
        return "none: joules stay unknown"
    if second.microjoules < first.microjoules or second.samples < first.samples:
        raise _Fault(f"totals went down: {first} and then {second}")
    return f"{second.source.name.lower()}, scope {second.scope.name.lower()}"


def _same(board: Board, w: MXTensor, x: MXTensor) -> str:
    on_board = board.load_weight(w)
    try:
        answered = board.run(on_board, x)
    finally:
        board.unload_weight(on_board)
    _compare(answered, emulation.product(x, EmulatedWeight(w)))
    return f"{answered.size} results bit for bit"


def _compare(answered: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    wrong = np.argwhere(answered.view(np.uint32) != expected.view(np.uint32))
    if len(wrong):
        token, row = (int(i) for i in wrong[0])
        raise _Fault(
            f"{len(wrong)} of {expected.size} results differ; the first, token {token} row {row}: "
            f"{answered[token, row]!r} instead of {expected[token, row]!r}"
        )
