"""The RTL, behind its serial port, answers what the arithmetic says, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mx_fpga.arithmetic import matmul_codes
from mx_fpga.elements import FORMATS, element_table, format_number, passes
from mx_fpga.layout import run_cycles
from mx_fpga.protocol import Counters, Message
from mx_plugin.formats import MXTensor, quantize
from tests.fpga.fractions_model import bits, element_values
from tests.fpga.raw_board import RawBoard

PAIRS = [(w, x) for w in FORMATS for x in FORMATS]
EXTREME = torch.tensor([0, 1, 7, 64, 120, 127, 127, 140, 200, 253, 254, 255], dtype=torch.uint8)


def multiply(board: RawBoard, w: MXTensor, x: MXTensor) -> NDArray[np.float32]:
    """Through the port, as many tokens at a time as the board takes."""
    fmt, columns = x.format.name, board.hello.columns
    board.load(0, w.elements.numpy(), w.scales.numpy(), w.format.name)
    answers = []
    for first in range(0, x.shape[0], columns):
        part = slice(first, first + columns)
        board.give(x.elements[part].numpy(), x.scales[part].numpy(), fmt)
        answers.append(board.run(0, w.shape[0], x.elements[part].shape[0]))
    return np.concatenate(answers)


def expected(w: MXTensor, x: MXTensor) -> NDArray[np.uint32]:
    def parts(t: MXTensor) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
        return t.element_codes().numpy(), t.scale_codes().numpy(), t.format.name

    return bits(matmul_codes(*parts(x), *parts(w)))


def any_codes(generator: torch.Generator, fmt: str, shape: tuple[int, int]) -> MXTensor:
    """Every code a format has, with extreme scales and few special elements, so that they show."""
    table = element_table(fmt)
    codes = torch.randint(0, 1 << table.bits, shape, generator=generator, dtype=torch.uint8)
    special = torch.from_numpy(table.kind >= 2)[codes.long()]
    codes[special & (torch.rand(shape, generator=generator) > 0.05)] = 0
    codes[shape[0] // 2, : shape[1] // 2] = 0
    blocks = -(-shape[1] // 32)
    scales = EXTREME[torch.randint(0, len(EXTREME), (shape[0], blocks), generator=generator)]
    return MXTensor.from_codes(codes, scales, fmt)


@pytest.mark.parametrize(("w_fmt", "x_fmt"), PAIRS)
def test_every_product_of_two_elements_is_exact(board: RawBoard, w_fmt: str, x_fmt: str) -> None:
    """256 x 256 products, each alone in its block, in a lane of its own for each pair."""
    w_count, x_count = len(element_values(w_fmt)), len(element_values(x_fmt))
    lane = (7 * format_number(w_fmt) + 5 * format_number(x_fmt)) % 32
    sides = []
    for count, fmt in ((w_count, w_fmt), (x_count, x_fmt)):
        codes = torch.zeros(count, 32, dtype=torch.uint8)
        codes[:, lane] = torch.arange(count).to(torch.uint8)
        sides.append(MXTensor.from_codes(codes, torch.full((count, 1), 127, dtype=torch.uint8), fmt))
    w, x = sides
    got = bits(multiply(board, w, x))
    assert got.shape == (x_count, w_count)
    assert np.array_equal(got, expected(w, x))


@pytest.mark.parametrize(("w_fmt", "x_fmt"), PAIRS)
def test_real_casts_with_ragged_rows_and_blocks_are_bit_exact(board: RawBoard, w_fmt: str, x_fmt: str) -> None:
    generator = torch.Generator().manual_seed(5)
    w = quantize(torch.randn(37, 104, generator=generator), w_fmt, scale_rule="rceil")
    x = quantize(torch.randn(3, 104, generator=generator), x_fmt)
    assert np.array_equal(bits(multiply(board, w, x)), expected(w, x))


@pytest.mark.parametrize(("w_fmt", "x_fmt"), PAIRS)
def test_special_elements_and_extreme_scales_are_bit_exact(board: RawBoard, w_fmt: str, x_fmt: str) -> None:
    generator = torch.Generator().manual_seed(6)
    w, x = any_codes(generator, w_fmt, (48, 160)), any_codes(generator, x_fmt, (4, 160))
    assert np.array_equal(bits(multiply(board, w, x)), expected(w, x))


@pytest.mark.parametrize("w_fmt", ["MXFP4", "MXFP6", "MXFP8"])
def test_one_block_rows_and_many_groups_keep_their_order(board: RawBoard, w_fmt: str) -> None:
    """The shortest groups there are: results wait for each other, never for ever."""
    w, x = quantize(torch.randn(500, 32), w_fmt), quantize(torch.randn(2, 32), "MXFP8")
    assert np.array_equal(bits(multiply(board, w, x)), expected(w, x))


def test_the_longest_rows_are_bit_exact(board: RawBoard) -> None:
    length = 32 * board.hello.max_blocks
    w, x = quantize(torch.randn(16, length), "MXFP8"), quantize(torch.randn(2, length), "MXFP6")
    assert np.array_equal(bits(multiply(board, w, x)), expected(w, x))


@pytest.mark.parametrize("w_fmt", ["MXFP4", "MXFP8"])
def test_a_projection_of_896_by_896_is_bit_exact(board: RawBoard, w_fmt: str) -> None:
    w, x = quantize(torch.randn(896, 896), w_fmt), quantize(torch.randn(2, 896), "MXFP8")
    assert np.array_equal(bits(multiply(board, w, x)), expected(w, x))


def test_weights_side_by_side_do_not_disturb_each_other(board: RawBoard) -> None:
    from mx_fpga.layout import weight_sizes

    weights = [quantize(torch.randn(rows, 96), fmt) for rows, fmt in ((20, "MXFP6"), (33, "MXFP4"), (16, "MXFP8"))]
    element_at = scale_at = 0
    for handle, w in enumerate(weights):
        board.load(handle, w.elements.numpy(), w.scales.numpy(), w.format.name, element_at, scale_at)
        sizes = weight_sizes(w.shape[0], 3, w.format.name, board.geometry)
        element_at, scale_at = element_at + sizes[0], scale_at + sizes[1]
    x = quantize(torch.randn(2, 96), "MXINT8")
    board.give(x.elements.numpy(), x.scales.numpy(), "MXINT8")
    for handle in (2, 0, 1, 0):
        y = board.run(handle, weights[handle].shape[0], 2)
        assert np.array_equal(bits(y), expected(weights[handle], x))


@pytest.mark.parametrize(("w_fmt", "x_fmt"), [("MXFP8", "MXFP8"), ("MXFP4", "MXFP8_E5M2"), ("MXFP8_E5M2",) * 2])
def test_the_counters_tell_the_passes(board: RawBoard, w_fmt: str, x_fmt: str) -> None:
    w, x = quantize(torch.randn(64, 128), w_fmt), quantize(torch.randn(2, 128), x_fmt)
    before = Counters.decode(board.ask(Message.COUNTERS))
    multiply(board, w, x)
    after = Counters.decode(board.ask(Message.COUNTERS))
    assert after.passes - before.passes == run_cycles(4, 4, w_fmt, x_fmt, board.geometry) == 128 * passes(w_fmt, x_fmt)
    assert after.passes - before.passes < after.busy_cycles - before.busy_cycles < after.cycles - before.cycles
