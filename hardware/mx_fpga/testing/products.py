"""Level ``products``: every product has the bits of ``emulate``, see Numbers in docs/fpga.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch

from mx_plugin.formats import MXTensor
from mx_plugin.testing import Level, NotApplicable

from .. import selftest
from ..elements import BLOCK, INFINITE, NAN, ElementTable, element_table
from ..selftest import any_codes
from .trial import BoardTrial

LEVEL = Level("board", "products", "every product has the bits of emulate", BoardTrial)

SCALES = (0, 1, 64, 127, 128, 190, 253, 254, 255)
ONE = 127
"""The scale code of 1."""

COUNTS = (0, 1, 2, 3, 4, 5, 6, 7)
"""So many smallest steps beside a large value: between them lie ties, to even and away from it, and no tie."""


@LEVEL.check
def special_values(trial: BoardTrial) -> None:
    """Infinite and NaN elements follow IEEE 754; the one NaN is 0x7fc00000."""
    some = [fmt for fmt in trial.hello.format_names if (element_table(fmt).kind >= INFINITE).any()]
    if not some:
        raise NotApplicable("none of its formats has infinite or NaN elements")
    for weights, activations in _pairs(trial):
        if weights in some or activations in some:
            w, x = _specials(weights), _specials(activations)
            trial.demand_product(w, x, f"{weights}/{activations}, special elements")


@LEVEL.check
def extreme_scales(trial: BoardTrial) -> None:
    """Scales from 0 to 254 count as powers of two, over- and underflow included; 255 makes the block NaN."""
    for weights, activations in _pairs(trial):
        w, x = (_powers(fmt, [(scale,) for scale in SCALES]) for fmt in (weights, activations))
        trial.demand_product(w, x, f"{weights}/{activations}, one value of 1, rows of scales {SCALES}, tokens too")


@LEVEL.check
def rounding_of_blocks(trial: BoardTrial) -> None:
    """A block's sum is exact and rounded once, to nearest, ties to even, with gradual underflow."""
    for fmt in trial.hello.format_names:
        ones = _counted(fmt, COUNTS, scale=0)
        tiny = MXTensor.from_codes(ones.element_codes(), torch.full((len(COUNTS), 1), ONE - 23, dtype=torch.uint8), fmt)
        trial.demand_product(ones, tiny, f"{fmt}/{fmt}, sums near the smallest subnormal")
        if element_table(fmt).max_magnitude >= 1 << 12:
            w = _beside_a_large_one(fmt)
            trial.demand_product(w, w, f"{fmt}/{fmt}, sums of more than 24 bits")


@LEVEL.check
def rounding_of_sums(trial: BoardTrial) -> None:
    """Blocks are added in float32, in ascending order, to nearest, ties to even."""
    if trial.hello.max_blocks < 3:
        raise NotApplicable("its rows have fewer than three blocks")
    for fmt in trial.hello.format_names:
        w = _powers(fmt, [(ONE + 12, ONE + s) for s in (-12, -11)] + [(ONE - 12, ONE + 12)])
        x = _powers(fmt, [(ONE + 12, ONE + s) for s in (11, 12, 13)] + [(ONE + 12, ONE - 12)])
        trial.demand_product(w, x, f"{fmt}/{fmt}, two blocks of which one has the other's last bits")
        three = _powers(fmt, [(ONE + 24, ONE, ONE), (ONE, ONE, ONE + 24), (ONE, ONE + 24, ONE)])
        trial.demand_product(three, _powers(fmt, [(ONE, ONE, ONE)]), f"{fmt}/{fmt}, three blocks in several orders")


@LEVEL.check
def cancellation(trial: BoardTrial) -> None:
    """Long rows whose halves cancel leave the roundings on the way."""
    trial.passes(selftest.long_rows)


@LEVEL.check
def ragged(trial: BoardTrial) -> None:
    """Rows that do not fill their last block, single rows and single tokens."""
    fmt = trial.hello.format_names[0]
    for rows, length, tokens in ((1, 1, 1), (1, 31, 1), (3, 33, 1), (trial.geometry.group_rows + 1, 95, 2)):
        length = selftest.that_fits(trial.board, length)
        w, x = any_codes(rows, length, fmt, rows), any_codes(tokens, length, fmt, length)
        trial.demand_product(w, x, f"{fmt}/{fmt}, {rows} rows of {length} elements, {tokens} tokens")


@LEVEL.check
def every_pair(trial: BoardTrial) -> None:
    """Every pair of formats that it says: random codes, NaN and infinities too, both ends of the scales."""
    for weights, activations in _pairs(trial):
        trial.passes(selftest.pair(weights, activations), f"{weights}/{activations}")


@LEVEL.check
def many_rows_and_tokens(trial: BoardTrial) -> None:
    """More rows and tokens than go into one request."""
    trial.passes(selftest.many)


# ---------------------------------------------------------------------------- operands


def _pairs(trial: BoardTrial) -> Iterator[tuple[str, str]]:
    return product(trial.hello.format_names, trial.hello.format_names)


def _code(table: ElementTable, magnitude: int) -> int:
    """The positive code of an integer magnitude."""
    total = table.low.astype("int64") + (table.high.astype("int64") << 16)
    usable = (total == magnitude) & ~table.negative & (table.kind < INFINITE)
    return int(usable[: 1 << table.bits].argmax())


def _one(table: ElementTable) -> int:
    """The code of 1."""
    return _code(table, 1 << -table.unit)


def _specials(fmt: str) -> MXTensor:
    """Rows whose first element is special, or one of those that meet it: zeros, ones, the largest; the rest is zero."""
    table = element_table(fmt)
    codes = {int(code) for kind in (INFINITE, NAN) for code in (table.kind[: 1 << table.bits] == kind).nonzero()[0]}
    minus, one = 1 << (table.bits - 1), _one(table)
    codes |= {0, minus, one, one | minus, _code(table, table.max_magnitude)}
    firsts = sorted(codes)
    rows = torch.zeros(2 * len(firsts), BLOCK, dtype=torch.uint8)
    rows[: len(firsts), 0] = torch.tensor(firsts, dtype=torch.uint8)
    # And each beside another special one, so that infinities of both signs meet.
    rows[len(firsts) :, 0] = torch.tensor(firsts, dtype=torch.uint8)
    rows[len(firsts) :, 1] = torch.tensor(firsts[::-1], dtype=torch.uint8)
    return MXTensor.from_codes(rows, torch.full((len(rows), 1), ONE, dtype=torch.uint8), fmt)


def _powers(fmt: str, scales: Sequence[tuple[int, ...]]) -> MXTensor:
    """Rows of blocks that hold a single 1, of these scale codes."""
    table = element_table(fmt)
    codes = torch.zeros(len(scales), len(scales[0]) * BLOCK, dtype=torch.uint8)
    codes[:, ::BLOCK] = _one(table)
    return MXTensor.from_codes(codes, torch.tensor(scales, dtype=torch.uint8), fmt)


def _counted(fmt: str, counts: tuple[int, ...], scale: int) -> MXTensor:
    """Rows of one block that hold so many ones."""
    codes = torch.zeros(len(counts), BLOCK, dtype=torch.uint8)
    for row, count in enumerate(counts):
        codes[row, :count] = _one(element_table(fmt))
    return MXTensor.from_codes(codes, torch.full((len(counts), 1), scale, dtype=torch.uint8), fmt)


def _beside_a_large_one(fmt: str) -> MXTensor:
    """Rows of one block: 2**12 smallest steps, and so many times one step, of either sign."""
    table = element_table(fmt)
    step, large = _code(table, 1), _code(table, 1 << 12)
    codes = torch.zeros(2 * len(COUNTS), BLOCK, dtype=torch.uint8)
    codes[:, 0] = large
    for row, count in enumerate(COUNTS):
        codes[row, 1 : 1 + count] = step
        codes[len(COUNTS) + row, 1 : 1 + count] = step | 1 << (table.bits - 1)
    return MXTensor.from_codes(codes, torch.full((len(codes), 1), ONE, dtype=torch.uint8), fmt)
