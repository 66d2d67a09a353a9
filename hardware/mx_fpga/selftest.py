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
from .compare import compare_bits
from .elements import BLOCK, element_table, format_number
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


class SelftestFault(BoardError):
    """The board does not do what it should; says what came, and what was due."""


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


def that_fits(board: Board, length: int) -> int:
    """Elements of a row: ``length``, or as many as this board can hold of a group of rows in any of its formats."""
    blocks = min(board.hello.max_blocks, -(-length // BLOCK))
    while blocks > 1 and not all(board.memory.groups_that_fit(blocks, fmt) for fmt in board.hello.format_names):
        blocks -= 1
    return min(length, blocks * BLOCK)


def exact_codes(rows: int, length: int, fmt: str, seed: int) -> MXTensor:
    """Values of 1 and 1/2, of either sign: every sum of their products is exact, in any order."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 3, (rows, length), generator=draw) / 2
    return quantize(sizes * (torch.randint(0, 2, (rows, length), generator=draw) * 2 - 1), fmt)


def _checks(board: Board) -> Iterator[tuple[str, Check]]:
    yield "echoes of all sizes", echoes
    yield "noise on the line", noise
    yield "refusals", refusals
    for weights, activations in product(board.hello.format_names, repeat=2):
        yield f"{weights}/{activations}", pair(weights, activations)
    yield "long rows that cancel", long_rows
    yield "many tokens and rows", many
    yield "weights side by side", side_by_side
    yield "counters", counters
    yield "energy", energy


def echoes(board: Board) -> str:
    """Payloads of all sizes, of zeros and without, come back."""
    sizes = [0, 1, 2, 252, 253, 254, 255, 256, 508, 509, 510, board.hello.max_payload]
    payloads = [bytes(size) for size in sizes] + [bytes(1 + i % 255 for i in range(size)) for size in sizes]
    replies = board.link.exchange((Message.PING, payload) for payload in payloads)
    wrong = [len(payload) for payload, reply in zip(payloads, replies, strict=True) if payload != reply]
    if wrong:
        raise SelftestFault(f"payloads of {wrong} bytes came back changed")
    return f"{len(payloads)} payloads up to {sizes[-1]} bytes"


def noise(board: Board) -> str:
    """After noise of several kinds the board still answers, and has counted damaged frames."""
    frame = encode_frame(protocol.encode_request(Message.RESET, 1))
    broken = bytes([frame[0], frame[1] ^ 1]) + frame[2:]
    before = board.counters().frames_bad
    for junk in (b"\x55" * 5000, bytes(100), broken, frame[:-3], b"\xff\x01\0"):
        board.link.disturb(junk)
        board.ping(b"still there?")
    noticed = board.counters().frames_bad - before
    if not noticed:
        raise SelftestFault("damaged frames are not counted in frames_bad")
    return f"{noticed} damaged frames counted"


def refusals(board: Board) -> str:
    """What cannot be is refused with its status."""
    beyond = board.hello.element_bytes + board.geometry.word_bytes
    rows = board.geometry.group_rows
    sizes = layout.weight_sizes(rows, 1, board.hello.format_names[0], board.geometry)
    number = format_number(board.hello.format_names[0])
    begin = protocol.LoadBegin(0, number, 1, 1, beyond, sizes[0], 0, sizes[1])
    last = board.hello.handles - 1
    board.reset()
    cases = [
        (Message.RUN, protocol.run(last, 1, 0, 1), Status.BAD_HANDLE),
        (Message.LOAD_COMMIT, protocol.handle_only(last), Status.NOT_LOADING),
        (Message.LOAD_BEGIN, begin.encode(), Status.OUT_OF_MEMORY),
        (Message.LOAD_BEGIN, b"\0", Status.BAD_LENGTH),
        (Message.ACTIVATIONS, protocol.activations(1, number, board.hello.columns + 1, 1, 0, b""), Status.BAD_SHAPE),
    ]
    for message, payload, expected in cases:
        try:
            board.link.request(message, payload)
        except Refused as refused:
            if refused.status == expected:
                continue
            raise SelftestFault(f"{message.name} should be refused with {expected.name}; {refused}") from refused
        raise SelftestFault(f"{message.name} should be refused with {expected.name}, but was taken")
    return f"{len(cases)} requests refused as they should be"


def pair(weights: str, activations: str) -> Check:
    """Every code, NaN and infinities too, and both ends of the scales, in one pair of formats."""

    def check(board: Board) -> str:
        rows, length = 2 * board.geometry.group_rows + 3, that_fits(board, 2 * BLOCK + 5)
        w = any_codes(rows, length, weights, 1)
        x = any_codes(2 * board.hello.columns + 1, length, activations, 2)
        return same(board, w, x)

    return check


def long_rows(board: Board) -> str:
    """Halves that cancel but for the roundings on the way: the order of additions shows in the last bits."""
    length = that_fits(board, 64 * BLOCK)
    half = torch.randn(3, length // 2, generator=torch.Generator().manual_seed(3))
    w = quantize(torch.cat((half, half), 1), board.hello.format_names[0])
    x = quantize(torch.cat((half, -half), 1) * 1.001, board.hello.format_names[0])
    return same(board, w, x)


def many(board: Board) -> str:
    """More rows and tokens than go into one request."""
    rows, tokens = 5 * board.geometry.group_rows + 1, 4 * board.hello.columns + 1
    fmt = board.hello.format_names[-1]
    length = that_fits(board, 3 * BLOCK)
    return same(board, any_codes(rows, length, fmt, 4), any_codes(tokens, length, fmt, 5))


def side_by_side(board: Board) -> str:
    """Weights that lie on the board together are kept apart."""
    names = board.hello.format_names
    weights = [exact_codes(board.geometry.group_rows, BLOCK, names[i % len(names)], 10 + i) for i in range(4)]
    loaded = [board.load_weight(w) for w in weights]
    for _ in range(2):
        for w, on_board in zip(weights, loaded, strict=True):
            x = exact_codes(1, BLOCK, w.format.name, 20)
            demand_bits(board.run(on_board, x), expected(x, w))
    for on_board in loaded:
        board.unload_weight(on_board)
    return f"{len(weights)} weights, each multiplied twice"


def counters(board: Board) -> str:
    """A product takes the cycles that docs/fpga.md says."""
    fmt = board.hello.format_names[0]
    length = that_fits(board, 2 * BLOCK)
    w, x = any_codes(board.geometry.group_rows, length, fmt, 6), any_codes(1, length, fmt, 7)
    on_board = board.load_weight(w)
    before = board.counters()
    board.run(on_board, x)
    after = board.counters()
    board.unload_weight(on_board)
    passes = after.passes - before.passes
    due = layout.run_cycles(1, length // BLOCK, fmt, fmt, board.geometry)
    if passes != due:
        raise SelftestFault(f"the dot units multiplied for {passes} cycles, not for {due}")
    if after.busy_cycles - before.busy_cycles < passes or after.cycles - before.cycles < passes:
        raise SelftestFault(f"fewer cycles than passes: {before} and then {after}")
    return f"{passes} passes in {after.busy_cycles - before.busy_cycles} busy cycles"


def energy(board: Board) -> str:
    """READ_ENERGY has the source that HELLO says, and totals that do not go down."""
    first, second = board.read_energy(), board.read_energy()
    if first.source is not board.hello.energy:
        raise SelftestFault(f"HELLO says energy is {board.hello.energy.name}, READ_ENERGY says {first.source.name}")
    if first.source is EnergySource.NONE:
        return "none: joules stay unknown"
    if second.microjoules < first.microjoules or second.samples < first.samples:
        raise SelftestFault(f"totals went down: {first} and then {second}")
    return f"{second.source.name.lower()}, scope {second.scope.name.lower()}"


def same(board: Board, w: MXTensor, x: MXTensor) -> str:
    """The product has the bits of ``emulate``.

    Raises:
        SelftestFault: it has not; says the first that differs.
    """
    on_board = board.load_weight(w)
    try:
        answered = board.run(on_board, x)
    finally:
        board.unload_weight(on_board)
    demand_bits(answered, expected(x, w))
    return f"{answered.size} results bit for bit"


def expected(x: MXTensor, w: MXTensor) -> NDArray[np.float32]:
    """What ``emulate`` computes: float32 of shape (tokens, rows)."""
    return emulation.product(x, EmulatedWeight(w))


def demand_bits(answered: NDArray[np.float32], due: NDArray[np.float32]) -> None:
    """Raise a SelftestFault unless all bits are equal."""
    found = compare_bits(answered, due)
    if found.count:
        raise SelftestFault(f"{found.count} of {found.compared} results differ; the first, {found.first}")
