"""The link: every fault is survived, or ends in one clear error, in bounded time."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mx_fpga import protocol
from mx_fpga.errors import BoardError, LinkError, LinkReopened, Refused
from mx_fpga.fake import FakeBoard
from mx_fpga.fake_port import FakePort
from mx_fpga.link import Link
from mx_fpga.port import Port, PortLost
from mx_fpga.protocol import Message, Status
from mx_fpga.testing import KINDS, FaultyWire, some_faults

FAST: dict[str, Any] = {"timeout_s": 0.15, "backoff_s": 0.001, "reopen_s": 2.0}


def pings(count: int, size: int = 300) -> list[tuple[Message, bytes]]:
    """Payloads that differ, with zero bytes and without."""
    return [(Message.PING, bytes((i * 7 + j * (i % 5)) & 0xFF for j in range(size))) for i in range(count)]


def echoed(link: Link, requests: list[tuple[Message, bytes]]) -> bool:
    return link.exchange(requests) == [payload for _, payload in requests]


@pytest.fixture(params=["pty", "tcp"])
def port(request: pytest.FixtureRequest) -> Iterator[FakePort]:
    with FakePort(FakeBoard(), tcp=request.param == "tcp") as port:
        yield port


# ---------------------------------------------------------------------------- a sound wire


def test_replies_come_in_the_order_of_requests_with_several_under_way(port: FakePort) -> None:
    with Link(port.url, **FAST) as link:
        link.credits = 2
        assert echoed(link, pings(200))
        assert link.request(Message.PING, b"") == b""
        stats = link.statistics
        assert (stats.frames_sent, stats.frames_received) == (201, 201)
        assert stats.repeated == stats.timeouts == stats.damaged_received == stats.damaged_sent == stats.ignored == 0
        assert stats.bytes_sent > 200 * 300 and stats.bytes_received > 200 * 300


def test_no_more_requests_are_under_way_than_there_are_credits() -> None:
    """A board that answers only once it has been given nothing for a while sees how many came."""
    ours, theirs = os.openpty()
    seen: list[int] = []

    def board() -> None:
        fake, waiting = FakeBoard(), b""
        while len(seen) < 5:
            waiting = os.read(ours, 1 << 16)
            time.sleep(0.05)
            os.set_blocking(ours, False)
            try:
                waiting += os.read(ours, 1 << 16)
            except BlockingIOError:
                pass
            os.set_blocking(ours, True)
            seen.append(len([piece for piece in waiting.split(b"\0") if piece]))
            os.write(ours, fake.feed(waiting))

    import tty

    tty.setraw(theirs)
    thread = threading.Thread(target=board, daemon=True)
    thread.start()
    with Link(os.ttyname(theirs), timeout_s=5.0) as link:
        link.credits = 3
        assert echoed(link, pings(15, 20))
    thread.join(5)
    os.close(ours)
    os.close(theirs)
    assert seen == [3, 3, 3, 3, 3]


def test_a_link_is_shared_by_threads(port: FakePort) -> None:
    with Link(port.url, **FAST) as link:
        link.credits = 2
        right: list[bool] = []
        threads = [threading.Thread(target=lambda n=n: right.append(echoed(link, pings(40, 50 + n)))) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert right == [True] * 4


def test_a_refusal_says_which_request_it_was_and_leaves_the_link_usable(port: FakePort) -> None:
    with Link(port.url, **FAST) as link:
        link.credits = 2
        requests = [*pings(3), (Message.RUN, protocol.run(0, 1, 0, 1)), *pings(3)]
        with pytest.raises(Refused, match="refused RUN: BAD_HANDLE") as refused:
            link.exchange(requests)
        assert (refused.value.index, refused.value.status) == (3, Status.BAD_HANDLE)
        assert refused.value.replies == [payload for _, payload in requests[:3]]
        assert echoed(link, pings(5))
        assert link.statistics.repeated == 0


def test_rfc2217_works_too() -> None:
    import serial
    from serial.rfc2217 import PortManager

    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection = listener.accept()[0]
        settings = serial.serial_for_url("loop://", timeout=0)

        class Out:
            def write(self, data: bytes) -> None:
                connection.sendall(data)

        manager, board = PortManager(settings, Out()), FakeBoard()
        try:
            while data := connection.recv(4096):
                reply = board.feed(b"".join(manager.filter(data)))
                connection.sendall(b"".join(manager.escape(reply)))
        except OSError:
            pass  # the host has gone
        connection.close()
        settings.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with Link(f"rfc2217://127.0.0.1:{listener.getsockname()[1]}", timeout_s=3.0) as link:
        link.credits = 2
        assert echoed(link, pings(10))
    thread.join(5)
    listener.close()
    assert not thread.is_alive()


# ---------------------------------------------------------------------------- damage


@pytest.mark.parametrize("direction", ["to_board", "to_host"])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_are_noticed_and_repeated(kind: str, direction: str) -> None:
    faults = some_faults([kind], seed=len(kind), count=12, within=20_000)
    wire = FaultyWire(**{direction: faults})
    with FakePort(FakeBoard(), wire) as port, Link(port.url, **FAST) as link:
        link.credits = 2
        assert echoed(link, pings(80))
        assert wire.board_side.done + wire.host_side.done == 12
        stats = link.statistics
        noticed = stats.damaged_sent if direction == "to_board" else stats.damaged_received
        assert noticed >= 6, "several faults may lie in one frame, but not all"
        assert stats.repeated >= 6 or kind == "garbage"


def test_all_kinds_of_damage_both_ways_at_once() -> None:
    wire = FaultyWire(
        some_faults(KINDS, seed=1, count=40, within=60_000), some_faults(KINDS, seed=2, count=40, within=60_000)
    )
    # So dense that the default retries do not always do: how frames meet the faults depends on the scheduler.
    with FakePort(FakeBoard(), wire) as port, Link(port.url, retries=20, **FAST) as link:
        link.credits = 4
        assert echoed(link, pings(220))
        assert wire.board_side.done == wire.host_side.done == 40


def test_a_lost_delimiter_joins_two_frames_and_both_are_repeated() -> None:
    first = len(_wire_bytes(link_number=0))
    with FakePort(FakeBoard(), FaultyWire({first: "drop"})) as port, Link(port.url, **FAST) as link:
        link.credits = 2
        assert echoed(link, pings(2, 10))


def _wire_bytes(link_number: int) -> bytes:
    """A first frame as a link writes it, without its last byte: a delimiter leads, 10 bytes of payload."""
    from mx_fpga.framing import encode_frame

    return b"\0" + encode_frame(protocol.encode_request(Message.PING, 1 + link_number, bytes(10)))[:-1]


def test_half_a_frame_left_by_another_process_does_no_harm(port: FakePort) -> None:
    before = Port(port.url, baudrate=115200, rtscts=False, write_timeout_s=1.0)
    before.write(_wire_bytes(0)[:9])
    before.close()
    with Link(port.url, **FAST) as link:
        assert echoed(link, pings(3))
        assert link.statistics.repeated == 0, "the delimiter ahead of the first frame ended the half one"


def test_half_a_reply_then_silence_is_asked_for_again() -> None:
    wire = FaultyWire()
    with FakePort(FakeBoard(), wire) as port, Link(port.url, **FAST) as link:
        assert echoed(link, pings(1))
        at = wire.host_side.at
        wire.host_side.faults = dict.fromkeys(range(at + 100, at + 320), "drop")  # the rest, delimiter included
        assert echoed(link, pings(2))
        assert link.statistics.timeouts >= 1


def test_crc_errors_beyond_the_retry_limit_end_in_an_error_that_says_so() -> None:
    wire = FaultyWire(to_board=dict.fromkeys(range(20, 10**6, 50), "flip"))
    with FakePort(FakeBoard(), wire) as port, Link(port.url, retries=3, **FAST) as link:
        with pytest.raises(LinkError, match=r"no valid reply to PING from .* in 4 attempts: the board got a damaged"):
            link.exchange(pings(1))
        wire.board_side.faults = {}
        assert echoed(link, pings(3)), "the link is usable once the wire is sound"


# ---------------------------------------------------------------------------- time


def test_a_late_reply_is_taken_and_its_repetition_ignored() -> None:
    wire = FaultyWire(late_s=0.25, late_replies=1)
    with FakePort(FakeBoard(), wire) as port, Link(port.url, **{**FAST, "timeout_s": 0.1}) as link:
        link.credits = 2
        assert echoed(link, pings(6))
        assert link.request(Message.PING, b"after") == b"after"
        assert link.statistics.timeouts >= 1 and link.statistics.repeated >= 1
        assert link.statistics.ignored >= 1


def test_a_board_that_never_answers_is_given_up_in_bounded_time() -> None:
    wire = FaultyWire()
    wire.cut_to_host = True
    with FakePort(FakeBoard(), wire) as port, Link(port.url, timeout_s=0.02, retries=3, backoff_s=0.001) as link:
        began = time.monotonic()
        with pytest.raises(
            LinkError, match=r"in 4 attempts: no reply within 0\.02 s \(1 times\), no reply within 0\.04"
        ):
            link.exchange(pings(2))
        assert time.monotonic() - began < 5.0
        wire.cut_to_host = False
        assert echoed(link, pings(2))


def test_a_port_that_takes_no_more_bytes_is_given_up_in_bounded_time() -> None:
    ours, theirs = os.openpty()
    try:
        with Link(os.ttyname(theirs), timeout_s=0.05, retries=2, backoff_s=0.001) as link:
            link.credits = 16
            with pytest.raises(LinkError, match="takes no more bytes"):
                link.exchange(pings(16, 2000))
    finally:
        os.close(ours)
        os.close(theirs)


# ---------------------------------------------------------------------------- the port


def test_unplugged_and_plugged_again_is_reported_once_and_then_works(tmp_path: Path) -> None:
    path = tmp_path / "board"
    first = FakePort(FakeBoard())
    path.symlink_to(first.url)
    with Link(str(path), **FAST) as link:
        assert echoed(link, pings(2))
        first.close()
        path.unlink()
        second = FakePort(FakeBoard())
        timer = threading.Timer(0.2, lambda: path.symlink_to(second.url))
        timer.start()
        with pytest.raises(LinkReopened, match=r"was lost while .* it is back"):
            link.exchange(pings(2))
        assert echoed(link, pings(2)) and link.statistics.reopened == 1
        timer.join()
        second.close()


def test_unplugged_for_good_is_an_error_with_the_remedy_and_the_link_may_be_used_later(tmp_path: Path) -> None:
    path = tmp_path / "board"
    port = FakePort(FakeBoard())
    path.symlink_to(port.url)
    link = Link(str(path), timeout_s=0.1, reopen_s=0.2)
    port.close()
    path.unlink()
    with pytest.raises(LinkError, match=r"did not come back within 0\.2 s .*Plug it in again"):
        link.exchange(pings(1))
    with pytest.raises(LinkError, match="Is the board plugged in"):
        link.exchange(pings(1))
    with FakePort(FakeBoard()) as back:
        path.symlink_to(back.url)
        assert echoed(link, pings(1))
        link.close()
    with pytest.raises(LinkError, match="is closed"):
        link.exchange(pings(1))


def test_a_server_that_hangs_up_is_connected_to_again() -> None:
    port = FakePort(FakeBoard(), tcp=True)
    with Link(port.url, **FAST) as link:
        assert echoed(link, pings(1))
        assert port._connection is not None
        port._connection.shutdown(socket.SHUT_RDWR)
        with pytest.raises(LinkReopened):
            link.exchange(pings(1))
        assert echoed(link, pings(1))
    port.close()


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("/dev/no-such-board", PortLost, "Is the board plugged in"),
        ("socket://127.0.0.1:1", PortLost, "Is the server running"),
        ("socket://127.0.0.1", BoardError, "socket://127.0.0.1"),
        ("telegraph://here", BoardError, "cannot be a serial port"),
        ("", BoardError, "cannot be opened"),
    ],
)
def test_a_wrong_url_is_refused_at_once_with_the_remedy(url: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Link(url, **FAST)


def test_a_port_that_is_no_terminal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"not a port")
    with pytest.raises(BoardError, match="cannot be opened"):
        Link(str(path), **FAST)


def test_a_busy_port_is_refused_and_says_what_to_do() -> None:
    with FakePort(FakeBoard()) as port, Link(port.url, **FAST) as link:
        with pytest.raises(PortLost, match="Another program has it open"):
            Link(port.url, **FAST)
        assert echoed(link, pings(1))


def test_a_loop_back_is_recognised() -> None:
    with Link("loop://", **FAST) as link, pytest.raises(LinkError, match="sends back what is written to it"):
        link.request(Message.PING, b"anyone there?")


def test_more_under_way_than_all_buffers_hold_blocks_nobody() -> None:
    """Both directions full at once: the board writes replies while the host still writes requests."""
    with FakePort(FakeBoard()) as port, Link(port.url, credits=64, timeout_s=3.0) as link:
        link.learn_credits(2)
        assert link.credits == 64
        assert echoed(link, pings(300, 2000))
        assert link.statistics.repeated == link.statistics.timeouts == 0
