"""mx_tile against mx_fpga.arithmetic: all format pairs, special elements, extreme scales, several blocks and groups."""

import os

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from mx_fpga.arithmetic import matmul_codes
from mx_fpga.elements import FORMATS, element_table, format_number
from tests.fpga.fractions_model import bits

ROWS, COLUMNS, TURNS = int(os.environ.get("TILE_ROWS", "2")), int(os.environ.get("TILE_COLUMNS", "2")), 8

EXTREME = np.array([0, 1, 5, 60, 110, 127, 127, 130, 150, 200, 230, 253, 254, 255], np.uint8)


def packed(values: list[int], width: int) -> int:
    """Place 0 of a packed array lies lowest."""
    total = 0
    for place, value in enumerate(values):
        total |= int(value) << (width * place)
    return total


def steps(blocks: int, groups: int, w_fmt: str, x_fmt: str):
    """The order in which a board multiplies: (group, block, turn, pass) and the fields of ``step_t``."""
    w_digits = [1, 0] if element_table(w_fmt).digits == 2 else [0]
    x_digits = [1, 0] if element_table(x_fmt).digits == 2 else [0]
    pairs = [(w, x) for w in w_digits for x in x_digits]
    # What follows a pass counts 16 bits less where the sum of the digits' places falls.
    for group in range(groups):
        for block in range(blocks):
            for turn in range(TURNS):
                for place, (w, x) in enumerate(pairs):
                    kind = 0 if place == 0 else 1 if sum(pairs[place - 1]) != w + x else 2
                    yield group, block, turn, place, {
                        "valid": 1, "new_block": int(turn == 0 and place == 0), "w_high": w, "x_high": x, "pass": kind,
                        "last_pass": int(place == len(pairs) - 1), "first_block": int(block == 0),
                        "last_block": int(block == blocks - 1), "turn": turn,
                    }  # fmt: skip


FIELDS = (
    ("valid", 1), ("new_block", 1), ("w_high", 1), ("x_high", 1), ("pass", 2), ("last_pass", 1),
    ("first_block", 1), ("last_block", 1), ("turn", 3),
)  # fmt: skip


def step_bits(fields: dict[str, int]) -> int:
    total = 0
    for name, width in FIELDS:
        total = total << width | fields.get(name, 0)
    return total


async def multiply(dut, w_fmt: str, x_fmt: str, w, ws, x, xs, gaps) -> np.ndarray:
    """Drive one product; w (rows, K), x (COLUMNS, K) codes. Returns float32 bits (COLUMNS, rows)."""
    rows, length = w.shape
    blocks, groups = length // 32, rows // (ROWS * TURNS)
    dut.w_format.value, dut.x_format.value = format_number(w_fmt), format_number(x_fmt)
    dut.step.value = 0
    dut.next_valid.value = 0
    for _ in range(4):
        await RisingEdge(dut.clk)

    found: list[list[int]] = []

    async def collect() -> None:
        while len(found) < groups * TURNS:
            await RisingEdge(dut.clk)
            if int(dut.result_valid.value):
                value = int(dut.result.value)
                found.append([value >> (32 * i) & 0xFFFFFFFF for i in range(ROWS * COLUMNS)])

    collector = cocotb.start_soon(collect())

    def parts() -> list[tuple[int, int]]:
        return [(block, part) for _ in range(groups) for block in range(blocks) for part in range(8)]

    def give_part(at: tuple[int, int]) -> None:
        block, part = at
        codes = [x[c, 32 * block + 4 * part + i] for c in range(COLUMNS) for i in range(4)]
        dut.next_code.value, dut.next_valid.value = packed(codes, 8), 1

    coming = iter(parts())
    for _ in range(8):
        give_part(next(coming))
        await RisingEdge(dut.clk)
    for group, block, turn, place, fields in steps(blocks, groups, w_fmt, x_fmt):
        while gaps.random() < 0.02:
            dut.step.value, dut.next_valid.value = 0, 0
            await RisingEdge(dut.clk)
        dut.next_valid.value = 0
        if place == 0:
            at = next(coming, None)
            if at is not None:
                give_part(at)
        chosen = [(group * TURNS + turn) * ROWS + r for r in range(ROWS)]
        dut.step.value = step_bits(fields)
        dut.w_code.value = packed([w[row, 32 * block + i] for row in chosen for i in range(32)], 8)
        dut.w_scale.value = packed([ws[row, block] for row in chosen], 8)
        dut.x_scale.value = packed([xs[c, block] for c in range(COLUMNS)], 8)
        await RisingEdge(dut.clk)
    dut.step.value, dut.next_valid.value = 0, 0
    await collector
    values = np.array(found, np.uint32).reshape(groups * TURNS, ROWS, COLUMNS)
    return values.transpose(2, 0, 1).reshape(COLUMNS, rows)


def draw(generator, fmt: str, shape: tuple[int, int], special: bool) -> np.ndarray:
    table = element_table(fmt)
    codes = generator.integers(0, 1 << table.bits, shape, dtype=np.uint8)
    if special:  # mostly numbers, so that a special element shows
        keep = generator.random(shape) < 0.02
        return np.where((table.kind[codes] >= 2) & ~keep, np.uint8(0), codes)
    return np.where(table.kind[codes] >= 2, np.uint8(1), codes)


@cocotb.test()
async def tiles_equal_the_arithmetic(dut) -> None:
    cocotb.start_soon(Clock(dut.clk, 2, "step").start())
    generator = np.random.default_rng(11)
    pairs = [(w, x) for w in FORMATS for x in FORMATS]
    for number, (w_fmt, x_fmt) in enumerate(pairs):
        for special in (False, True):
            groups, blocks = (2, 3) if number % 5 == 0 else (1, 2)
            rows, length = groups * ROWS * TURNS, 32 * blocks
            w, x = draw(generator, w_fmt, (rows, length), special), draw(generator, x_fmt, (COLUMNS, length), special)
            if special:
                ws, xs = generator.choice(EXTREME, (rows, blocks)), generator.choice(EXTREME[:-1], (COLUMNS, blocks))
                w[0], w[1, :32] = 0, 0
                # A block that cancels all but its last bits.
                w[2, 1:32:2] = w[2, 0:32:2]
                sign = 0x80 if w_fmt == "MXINT8" else 1 << (element_table(w_fmt).bits - 1)
                w[2, 1:32:2] ^= sign
                x[:, 1:32:2] = x[:, 0:32:2]
            else:
                ws, xs = (generator.integers(118, 136, s, dtype=np.uint8) for s in ((rows, blocks), (COLUMNS, blocks)))
            got = await multiply(dut, w_fmt, x_fmt, w, ws, x, xs, generator)
            want = bits(matmul_codes(x, xs, x_fmt, w, ws, w_fmt))
            wrong = np.argwhere(got != want)
            assert not len(wrong), (
                f"{w_fmt}/{x_fmt} special={special}: {len(wrong)} of {got.size} differ, first at {wrong[0]}: "
                f"{got[tuple(wrong[0])]:08x}, not {want[tuple(wrong[0])]:08x}"
            )
