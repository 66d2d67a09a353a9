"""Faults between the host's software and the real RTL: the same bits in the end, or one clear error; nothing hangs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mx_fpga.board import Board
from mx_fpga.errors import LinkError
from mx_fpga.framing import encode_frame
from mx_fpga.protocol import Message, encode_request
from mx_fpga.simulator import Simulator
from mx_fpga.testing import KINDS, FaultyWire, some_faults
from mx_plugin import get_backend
from tests.fpga.bridge import Bridge
from tests.fpga.conftest import SMALL
from tests.fpga.test_board import expected, packed, same_bits

LINK: dict[str, Any] = {"timeout_s": 0.5, "backoff_s": 0.001, "reopen_s": 20.0}
W, X = packed(96, 128, "MXFP8"), packed(12, 128, "MXFP6", 1)


@pytest.fixture
def own(verilator: None) -> Iterator[Simulator]:
    """A simulated board that a test may maltreat, with both ports."""
    with Simulator(SMALL, port=0) as started:
        yield started


def multiplies_right(board: Board) -> bool:
    return same_bits(board.run(board.load_weight(W), X), expected(X, W))


def later(seconds: float, action: Any) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


# ---------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_change_no_bit_of_the_result(simulator: Simulator, kind: str) -> None:
    """Dropped, flipped, duplicated and swapped bytes and noise, both ways; both ends notice."""
    wire = FaultyWire(
        some_faults([kind], seed=3, count=8, within=14_000, after=100),
        some_faults([kind], seed=4, count=5, within=4_000, after=150),
    )
    with Bridge(simulator.url, wire) as bridge, Board.open(bridge.url, **LINK) as board:
        assert multiplies_right(board)
        assert wire.board_side.done == 8 and wire.host_side.done == 5
        assert board.link.statistics.damaged_sent >= 3 and board.link.statistics.damaged_received >= 2


def test_half_a_frame_of_a_host_that_died_does_no_harm(simulator: Simulator) -> None:
    port = os.open(simulator.url, os.O_RDWR | os.O_NOCTTY)
    os.write(port, encode_frame(encode_request(Message.PING, 1, bytes(300)))[:200])
    os.close(port)
    with Board.open(simulator.url, **LINK) as board:
        assert multiplies_right(board) and board.link.statistics.repeated == 0


def test_half_a_reply_is_asked_for_again(simulator: Simulator) -> None:
    wire = FaultyWire()
    with Bridge(simulator.url, wire) as bridge, Board.open(bridge.url, **LINK) as board:
        at = wire.host_side.at
        wire.host_side.faults = dict.fromkeys(range(at + 5, at + 13), "drop")
        assert multiplies_right(board) and board.link.statistics.repeated >= 1


def test_crc_errors_beyond_the_retries_are_an_error_or_by_option_the_same_bits(
    simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    wire = FaultyWire()
    x = torch.randn(5, 128)
    with Bridge(simulator.url, wire) as bridge:
        backends = [get_backend("fpga", mode="emulate"), get_backend("fpga", url=bridge.url, retries=2, **LINK)]
        on_host, on_board = (backend.linear(x, backend.load_weight(W)) for backend in backends)
        assert torch.equal(on_host, on_board)
        wire.board_side.faults = dict.fromkeys(range(wire.board_side.at, 10**6, 20), "flip")
        with pytest.raises(LinkError, match=r"no valid reply to \w+ from .* in 3 attempts: the board got a damaged"):
            backends[1].linear(x, backends[1].load_weight(W))
        backends[1].close()
        wire.board_side.faults = {}
        backend = get_backend("fpga", url=bridge.url, retries=2, on_failure="emulate", **LINK)
        handle = backend.load_weight(W)
        wire.board_side.faults = dict.fromkeys(range(wire.board_side.at, 10**6, 20), "flip")
        assert torch.equal(backend.linear(x, handle), on_host)
        assert f"the board at {bridge.url} is given up: no valid reply" in caplog.text
        backend.close()


# ---------------------------------------------------------------------------- the board


class Button(FaultyWire):
    """Presses the reset button once so many bytes have gone to the board."""

    def __init__(self, board: Simulator, after: int) -> None:
        super().__init__()
        self.board, self.after, self.pressed = board, after, False

    def to_board(self, data: bytes) -> bytes:
        if not self.pressed and self.board_side.at >= self.after:
            self.pressed = True
            self.board.reset()
        return super().to_board(data)


@pytest.mark.parametrize("after", [3_000, 13_500], ids=["while it is loaded", "while it multiplies"])
def test_a_board_that_is_reset_in_the_middle_is_loaded_again(own: Simulator, after: int) -> None:
    wire = Button(own, after)
    with Bridge(own.url, wire) as bridge, Board.open(bridge.url, **LINK) as board:
        assert multiplies_right(board) and wire.pressed
        assert board.traffic.recoveries >= 1


def test_a_board_that_answers_late_is_asked_again_and_its_late_replies_are_ignored(own: Simulator) -> None:
    with Board.open(own.url, **{**LINK, "timeout_s": 0.1}) as board:
        weight = board.load_weight(W)
        own.pause()
        timer = later(0.5, own.resume)
        assert same_bits(board.run(weight, X), expected(X, W))
        timer.join()
        assert board.link.statistics.timeouts >= 1 and board.link.statistics.ignored >= 1


def test_a_board_that_never_answers_is_given_up_in_bounded_time(own: Simulator) -> None:
    with Board.open(own.url, timeout_s=0.1, retries=2, backoff_s=0.001) as board:
        own.pause()
        began = time.monotonic()
        with pytest.raises(LinkError, match=r"in 3 attempts: no reply within 0\.1 s"):
            board.ping(b"anyone?")
        assert time.monotonic() - began < 30
        own.resume()
        board.link.timeout_s = 5.0
        assert multiplies_right(board), "and may be used again once it answers"


# ---------------------------------------------------------------------------- the cable


def test_unplugged_in_the_middle_and_plugged_again_it_is_loaded_anew(own: Simulator, tmp_path: Path) -> None:
    """The cable is pulled while a product waits for its answer; the port may come back under another name."""
    path = tmp_path / "board"
    path.symlink_to(own.url)
    answers: list[Any] = []  # of the thread that is cut off
    with Board.open(str(path), **{**LINK, "timeout_s": 5.0}) as board:
        weight, sent = board.load_weight(W), board.link.statistics.frames_sent
        own.pause()
        product = threading.Thread(target=lambda: answers.append(board.run(weight, X)))
        product.start()
        while board.link.statistics.frames_sent == sent:
            time.sleep(0.01)
        own.unplug()
        path.unlink()
        own.resume()
        own.plug()
        path.symlink_to(own.url)
        product.join(120)
        assert len(answers) == 1 and same_bits(answers[0], expected(X, W))
        assert board.traffic.loads == 2 and board.link.statistics.reopened == 1


def test_a_tcp_port_that_is_lost_is_connected_to_again(own: Simulator) -> None:
    with Board.open(str(own.socket_url), **LINK) as board:
        weight = board.load_weight(W)
        own.unplug()
        timer = later(0.3, own.plug)
        assert same_bits(board.run(weight, X), expected(X, W))
        timer.join()
        assert board.traffic.loads == 2 and board.link.statistics.reopened == 1


def test_a_board_that_ends_for_good_is_one_error(own: Simulator) -> None:
    with Board.open(own.url, timeout_s=0.5, reopen_s=0.2) as board:
        own.stop()
        with pytest.raises(LinkError, match=r"did not come back within 0\.2 s .*Plug it in again"):
            board.ping(b"gone?")


def test_a_busy_port_is_refused_and_the_first_host_is_served(own: Simulator) -> None:
    with Board.open(own.url, **LINK) as board:
        with pytest.raises(LinkError, match="Another program has it open: close that one"):
            Board.open(own.url, **LINK)
        with pytest.raises(LinkError, match="closes every connection: another program may be using this board"):
            Board.open(str(own.socket_url), **LINK)
        assert multiplies_right(board)


# ---------------------------------------------------------------------------- the memory


def test_weights_larger_than_the_memory_alone_or_together_give_the_same_bits(
    simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 1 MiB: one of 1.2 MB takes turns with itself, three of half a megabyte with each other."""
    x = packed(2, 1024, "MXFP8", 9)
    with Board.open(simulator.url, credits=16, **{**LINK, "timeout_s": 10.0}) as board:
        large = packed(1200, 1024, "MXFP8")
        assert same_bits(board.run(board.load_weight(large), x), expected(x, large))
        assert "exceeds the memory of board simulated" in caplog.text and board.traffic.loads == 2
        weights = [packed(500, 1024, "MXFP8", seed) for seed in range(3)]
        loaded = [board.load_weight(w) for w in weights]
        for weight, w in zip(loaded, weights, strict=True):
            assert same_bits(board.run(weight, x), expected(x, w))
        assert board.memory.evictions >= 3
