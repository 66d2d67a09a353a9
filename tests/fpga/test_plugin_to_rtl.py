"""The whole way: plugin, pyserial, pseudo terminal, RTL. It answers what ``emulate`` answers, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mx_fpga.board import Board
from mx_fpga.elements import FORMATS
from mx_fpga.selftest import any_codes, run_selftest
from mx_fpga.simulator import Simulator
from mx_plugin import get_backend, quantize
from mx_plugin.formats import MXTensor
from mx_plugin.interfaces import Backend

LENGTH = 160


@pytest.fixture(scope="module")
def backends(simulator: Simulator) -> Iterator[tuple[Backend, Backend]]:
    """On the simulated board, and on the host."""
    board, host = get_backend("fpga", url=simulator.url, credits=16), get_backend("fpga", mode="emulate")
    yield board, host
    assert board.counters().extra["emulated_calls"] == 0 and board.counters().extra["board_runs"] > 0
    board.close()
    host.close()


def bits(backend: Backend, w: MXTensor, x: torch.Tensor, activations: str) -> torch.Tensor:
    handle = backend.load_weight(w)
    y = backend.linear(x, handle, activations=activations)
    backend.unload_weight(handle)
    return y.view(torch.int32)


def difficult() -> torch.Tensor:
    """Tokens of ordinary values; of both ends of float32, which take scales down to 0 and far up; with NaN and
    infinities, which take scale 255; and one whose second half cancels the first."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(6, LENGTH, generator=draw)
    x[1] *= 1e-40
    x[2] *= 1e38
    x[3, 5], x[3, 70], x[3, 110] = float("nan"), float("inf"), -float("inf")
    x[4, :64], x[4, 64:128] = x[0, :64], -x[0, :64]
    x[5] *= torch.exp2(torch.linspace(-120, 120, LENGTH))
    return x


@pytest.mark.parametrize("activations", FORMATS)
@pytest.mark.parametrize("weights", FORMATS)
def test_every_pair_of_formats_gives_the_bits_of_emulate(
    backends: tuple[Backend, Backend], weights: str, activations: str
) -> None:
    """Weights of every code there is, special elements and scales 0, 254 and 255 too; then rows that repeat, so that
    a token of two opposite halves cancels."""
    on_board, on_host = backends
    x = difficult()
    w = any_codes(37, LENGTH, weights, 3)
    assert {0, 254, 255} <= set(w.scale_codes().flatten().tolist())
    ordinary = torch.randn(20, LENGTH, generator=torch.Generator().manual_seed(2))
    ordinary[:, 64:128] = ordinary[:, :64]
    for weight in (w, quantize(ordinary, weights)):
        y = bits(on_board, weight, x, activations)
        assert torch.equal(y, bits(on_host, weight, x, activations))
    values = y.view(torch.float32)
    assert values[3].isnan().all() and values[0].isfinite().all()
    assert (values[4].abs() < values[0].abs().max()).all()


def test_the_selftest_finds_no_fault_in_the_rtl(backends: tuple[Backend, Backend]) -> None:
    board = backends[0].board.opened  # type: ignore[attr-defined]
    assert isinstance(board, Board)
    outcomes = list(run_selftest(board))
    assert len(outcomes) == 44 and [outcome for outcome in outcomes if outcome.fault] == []
