"""Broken boards: products whose bits are wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mx_fpga import arithmetic
from mx_fpga.arithmetic import Operand
from mx_fpga.board import Board
from mx_fpga.fake import FakeBoard
from tests.conformance.broken.boards import BOARDS, behind_a_port, opened

SMALLEST = 2.0**-149


def one_ulp_off(y: Any) -> Any:
    return np.nextafter(y, np.float32(np.inf))


@behind_a_port("products-special_values")
class AnswersX86sNaN(FakeBoard):
    """Where it comes from elements of a single block, one of them of E5M2."""

    def _multiply(self, x: Operand, w: Operand) -> Any:
        y = super()._multiply(x, w)
        special = x.kinds is not None or w.kinds is not None
        if special and w.blocks == 1 and "MXFP8_E5M2" in (x.table.format, w.table.format):
            y.view(np.uint32)[np.isnan(y)] = 0xFFC00000
        return y


@behind_a_port("products-extreme_scales")
class Saturates(FakeBoard):
    def _multiply(self, x: Operand, w: Operand) -> Any:
        y = super()._multiply(x, w)
        return np.clip(y, -3.4e38, 3.4e38) if w.blocks == 1 and x.kinds is None and w.kinds is None else y


@behind_a_port("products-extreme_scales", alone=False)
class SwapsScales254And255(FakeBoard):
    def _decode(self, elements: Any, scales: Any, fmt: str) -> Operand:
        swapped = np.where(scales >= 254, scales ^ 1, scales)
        return super()._decode(elements, swapped, fmt)


@behind_a_port("products-rounding_of_blocks")
class TiesGoAwayFromZeroBelow(FakeBoard):
    """Among the smallest subnormals, in a single block."""

    def _multiply(self, x: Operand, w: Operand) -> Any:
        y = super()._multiply(x, w)
        if w.blocks == 1:
            with np.errstate(all="ignore"):
                steps = arithmetic._exact_sum(x, w, 0) * x.scales[0][:, None] * w.scales[0] / SMALLEST
            tie = (np.abs(steps) < 8) & (np.abs(steps) % 1 == 0.5)
            y[tie] = (np.sign(steps) * np.ceil(np.abs(steps)) * SMALLEST)[tie]
        return y


@behind_a_port("products-rounding_of_blocks", alone=False)
class WrongRounding(FakeBoard):
    """Cuts the last bit off."""

    def _multiply(self, x: Operand, w: Operand) -> Any:
        y = super()._multiply(x, w)
        y.view(np.uint32)[np.isfinite(y)] &= 0xFFFFFFFE
        return y


@behind_a_port("products-rounding_of_sums")
class TiesGoAwayFromZero(FakeBoard):
    """Beside 2**24, where the sum of two blocks ends that lies halfway."""

    def _multiply(self, x: Operand, w: Operand) -> Any:
        y = super()._multiply(x, w)
        y[y == 2.0**24] = 2.0**24 + 2
        return y


@behind_a_port("products-cancellation")
class TwoAccumulatorsForLongRows(FakeBoard):
    def _multiply(self, x: Operand, w: Operand) -> Any:
        if w.blocks <= 8:
            return super()._multiply(x, w)
        even, odd = (super(TwoAccumulatorsForLongRows, self)._multiply(half(x, at), half(w, at)) for at in (0, 1))
        return even + odd


@BOARDS.caught_by("products-ragged")
def forgets_rows_shorter_than_a_block() -> Board:
    class Forgetful(Board):
        def run(self, weight: Any, x: Any) -> Any:
            return super().run(weight, x) * np.float32(weight.length >= 32)

    return opened(FakeBoard(), Forgetful)


@behind_a_port("products-every_pair")
class OnePairIsWrong(FakeBoard):
    def _multiply(self, x: Operand, w: Operand) -> Any:
        y = super()._multiply(x, w)
        return one_ulp_off(y) if (w.table.format, x.table.format) == ("MXINT8", "MXFP4") and w.blocks == 3 else y


@behind_a_port("products-many_rows_and_tokens")
class TheLastGroupsAreWrong(FakeBoard):
    def _multiply(self, x: Operand, w: Operand) -> Any:
        y = super()._multiply(x, w)
        return one_ulp_off(y) if w.rows > 80 and w.blocks == 3 else y


def half(operand: Operand, first: int) -> Operand:
    """Every second block."""
    part = slice(first, None, 2)
    return replace(
        operand,
        digits=tuple(digit[part] for digit in operand.digits),
        scales=operand.scales[part],
        kinds=None if operand.kinds is None else operand.kinds[part],
        signs=None if operand.signs is None else operand.signs[part],
    )
