"""The meter ``fpga``: None is not zero, estimates are marked, simulated boards never measure."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch

from mx_fpga.board import Board
from mx_fpga.fake import DEFAULT, FakeBoard
from mx_fpga.fake_port import FakePort
from mx_fpga.protocol import EnergySource
from mx_plugin import plugins, quantize
from mx_plugin.interfaces import Work
from mx_plugin.ledger import Ledger


@pytest.fixture
def open_board() -> Iterator[Any]:
    """``open_board(source, name, simulated)``: a Board before a fake one."""
    with ExitStack() as stack:

        def opened(source: EnergySource, name: str = "fake", simulated: bool = False, **fake: Any) -> Board:
            board = FakeBoard(replace(DEFAULT, energy=source, name=name), **fake)
            port = stack.enter_context(FakePort(board))
            return stack.enter_context(
                Board.open(port.url, simulated=simulated, timeout_s=0.2, retries=1, reopen_s=0.1)
            )

        yield opened


def work(board: Board, products: int = 1) -> None:
    weight = board.load_weight(quantize(torch.ones(16, 32), "MXFP8"))
    for _ in range(products):
        board.run(weight, quantize(torch.ones(1, 32), "MXFP8"))


def test_without_a_board_nothing_is_known() -> None:
    meter = plugins.get_meter("fpga")
    meter.begin_window("rollout")
    found = meter.end_window("rollout")
    assert (found.joules, found.why) == (None, "no board is open in this process")


def test_a_board_without_a_meter_makes_the_window_unknown_with_the_reason(open_board: Any) -> None:
    board = open_board(EnergySource.NONE)
    meter = plugins.get_meter("fpga")
    meter.begin_window("rollout")
    work(board)
    found = meter.end_window("rollout")
    assert found.joules is None and found.why == "board fake has no energy meter (its source is none)"
    assert meter.describe()["sources"] == {"fake": "none"}


def test_a_board_that_went_away_for_good_is_not_forgotten(open_board: Any) -> None:
    """Its joules are lost: those of the boards that are left are not the window's."""
    stays = open_board(EnergySource.MEASURED, "stays")
    meter = plugins.get_meter("fpga")
    with FakePort(FakeBoard(replace(DEFAULT, energy=EnergySource.MEASURED, name="goes"))) as port:
        goes = Board.open(port.url)
        meter.begin_window("rollout")
        work(goes)
        goes.close()
        del goes
        gc.collect()
        work(stays)
        found = meter.end_window("rollout")
    assert found.joules is None and found.why == "a board was closed in this window"


def test_measured_joules_are_those_of_the_window(open_board: Any) -> None:
    board = open_board(EnergySource.MEASURED, microjoules_per_cycle=2.0)
    meter = plugins.get_meter("fpga")
    work(board, 3)
    per_product = 8 * 2.0 * 1e-6  # one group of 8 turns, one block, one pass
    for products in (1, 2):
        meter.begin_window("rollout")
        work(board, products)
        found = meter.end_window("rollout")
        assert found.joules == pytest.approx(products * per_product)
        assert found.source == "fpga:fake:measured:core_rail" and not found.estimated
        assert found.updates == products * 8 and found.domains == {"fpga:fake": found.joules}
    meter.begin_window("other")
    idle = meter.end_window("other")
    assert idle.joules is None and idle.updates == 0 and "no sample" in idle.why


def test_modelled_joules_are_marked_as_estimates_and_may_be_nothing(open_board: Any) -> None:
    board = open_board(EnergySource.MODELLED, simulated=True)
    meter = plugins.get_meter("fpga")
    meter.begin_window("rollout")
    work(board)
    found = meter.end_window("rollout")
    assert found.joules == pytest.approx(8e-6) and found.estimated and found.source.startswith("fpga:fake:modelled")
    meter.begin_window("other")
    assert meter.end_window("other").joules == 0.0, "a model knows that an idle board used nothing of what it models"


def test_a_simulated_board_that_claims_to_have_measured_is_not_believed(open_board: Any) -> None:
    board = open_board(EnergySource.MODELLED, simulated=True)
    meter = plugins.get_meter("fpga")
    meter.begin_window("rollout")
    work(board)
    original = board.link.request
    board.link.request = lambda message, payload=b"": b"\x01" + original(message, payload)[1:]
    found = meter.end_window("rollout")
    assert found.joules is None and "is simulated and says that it measured" in found.why


def test_a_board_opened_in_a_window_counts_from_its_opening(open_board: Any) -> None:
    meter = plugins.get_meter("fpga")
    meter.begin_window("rollout")
    work(open_board(EnergySource.MEASURED), 2)
    assert meter.end_window("rollout").joules == pytest.approx(16e-6)


def test_a_board_that_is_closed_or_lost_makes_the_window_unknown(open_board: Any) -> None:
    board = open_board(EnergySource.MEASURED)
    other = open_board(EnergySource.MEASURED, "other")
    meter = plugins.get_meter("fpga")
    meter.begin_window("rollout")
    other.close()
    assert "closed in this window" in meter.end_window("rollout").why
    meter.begin_window("rollout")
    board.link.close()
    assert "is closed" in meter.end_window("rollout").why


def test_a_loss_of_power_is_not_taken_for_negative_energy(open_board: Any) -> None:
    board = open_board(EnergySource.MEASURED)
    work(board, 2)
    meter = plugins.get_meter("fpga")
    meter.begin_window("rollout")
    original = board.link.request
    board.link.request = lambda message, payload=b"": original(message, payload)[:8] + bytes(16)
    assert "lost its totals" in meter.end_window("rollout").why


def test_measured_and_modelled_are_never_added(open_board: Any) -> None:
    first, second = open_board(EnergySource.MEASURED, "real"), open_board(EnergySource.MODELLED, "model")
    both, one = plugins.get_meter("fpga"), plugins.get_meter("fpga", board="real")
    for meter in (both, one):
        meter.begin_window("rollout")
    work(first)
    work(second)
    assert both.end_window("rollout").joules is None
    assert one.end_window("rollout").joules == pytest.approx(8e-6)
    absent = plugins.get_meter("fpga", board="nowhere")
    absent.begin_window("rollout")
    assert absent.end_window("rollout").why == "no board named 'nowhere' is open in this process"


def test_two_boards_of_one_kind_add_up(open_board: Any) -> None:
    boards = [open_board(EnergySource.MEASURED, name) for name in ("a", "b")]
    meter = plugins.get_meter("fpga")
    meter.begin_window("rollout")
    for board in boards:
        work(board)
    found = meter.end_window("rollout")
    assert found.joules == pytest.approx(16e-6) and set(found.domains) == {"fpga:a", "fpga:b"}


def test_in_the_ledger_its_joules_stand_in_the_phases_row(open_board: Any) -> None:
    board = open_board(EnergySource.MEASURED)
    ledger = Ledger([plugins.get_meter("fpga")], lambda: [Work("policy", "MXFP8/MXFP8", "int32", macs=1)])
    ledger.start("rollout")
    work(board, 2)
    rows = [row for row in ledger.stop(1) if row.role == "all"]
    ledger.close()
    assert [(row.phase, row.joules, row.source, row.estimated) for row in rows] == [
        ("rollout", pytest.approx(16e-6), "fpga:fake:measured:core_rail", False)
    ]
