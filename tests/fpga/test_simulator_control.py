"""What can be done to a simulated board besides speaking to it, and what it does to hosts that behave badly."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mx_fpga import layout, protocol
from mx_fpga.elements import format_number
from mx_fpga.framing import Deframer, encode_frame
from mx_fpga.protocol import Energy, EnergySource, Message, Status
from mx_fpga.simulator import Simulator, SimulatorError, start
from mx_plugin.formats import quantize
from tests.fpga.conftest import SMALL
from tests.fpga.raw_board import RawBoard, Refused
from tests.fpga.test_simulator import STARTER, gone


@pytest.fixture
def own(verilator: None) -> Iterator[Simulator]:
    """A simulator that a test may maltreat, with both ports."""
    with Simulator(SMALL, port=0) as started:
        yield started


def call(simulator: Simulator) -> socket.socket:
    """A connection to the TCP port."""
    assert simulator.socket_url is not None
    host, port = simulator.socket_url.removeprefix("socket://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def ping(number: int, payload: bytes = b"") -> bytes:
    return encode_frame(protocol.encode_request(Message.PING, number, payload))


def answers(connection: socket.socket, count: int) -> list[int]:
    """Sequence numbers of the next ``count`` replies; fewer where the other side closes. Bad frames are passed over."""
    deframer, numbers = Deframer(), []
    while len(numbers) < count:
        data = connection.recv(65536)
        if not data:
            break
        frames = map(protocol.decode, deframer.feed(data))
        numbers += [frame.sequence for frame in frames if frame.message != Message.BAD_FRAME]
    return numbers


def processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


# ---------------------------------------------------------------------------- the board


def test_a_reset_board_has_forgotten_its_weights_and_answers(own: Simulator) -> None:
    w, x = quantize(torch.randn(16, 32), "MXFP4"), quantize(torch.randn(1, 32), "MXFP8")
    with RawBoard(own.url) as board:
        board.load(1, w.elements.numpy(), w.scales.numpy(), "MXFP4")
        board.give(x.elements.numpy(), x.scales.numpy(), "MXFP8")
        board.run(1, 16, 1)
        board.send(ping(1)[:3])  # it is reset in the middle of a frame
        own.reset()
        with pytest.raises(Refused) as refused:
            board.run(1, 16, 1)
    assert refused.value.status is Status.BAD_HANDLE


def test_a_paused_board_answers_when_its_clock_runs_again(own: Simulator) -> None:
    with call(own) as connection:
        own.pause()
        connection.sendall(ping(7))
        assert not select.select([connection], [], [], 0.5)[0]
        own.resume()
        assert answers(connection, 1) == [7]


def test_time_stands_still_while_there_is_nothing_to_do(own: Simulator) -> None:
    with call(own) as connection:
        connection.sendall(ping(1, bytes(500)))
        assert answers(connection, 1) == [1]
        before = own.stats()
        assert before.connected and before.connections == 1
        ticks = processor_ticks(own.pid)
        time.sleep(1.5)
        after = own.stats()
        assert after.idle and after.cycles == before.cycles >= 500
        assert processor_ticks(own.pid) - ticks <= 5  # of about 150
        connection.sendall(ping(2))
        assert answers(connection, 1) == [2]
    assert own.stats().cycles > after.cycles


def test_a_board_that_nobody_is_connected_to_costs_no_processor_time(own: Simulator) -> None:
    with RawBoard(own.url) as board:
        board.ask(Message.PING)
    ticks = processor_ticks(own.pid)
    time.sleep(1.5)
    assert processor_ticks(own.pid) - ticks <= 5
    assert not own.stats().connected


def test_two_boards_at_once_do_not_know_of_each_other(own: Simulator) -> None:
    w = quantize(torch.randn(16, 32), "MXFP4")
    with Simulator(SMALL) as other, RawBoard(own.url) as first, RawBoard(other.url) as second:
        assert own.url != other.url and own.pid != other.pid
        first.load(3, w.elements.numpy(), w.scales.numpy(), "MXFP4")
        first.ask(Message.FREE, protocol.handle_only(3))
        with pytest.raises(Refused):
            second.ask(Message.LOAD_COMMIT, protocol.handle_only(3))
        other.stop()
        assert first.ask(Message.PING, b"still here") == b"still here"


# ---------------------------------------------------------------------------- the cable


def test_an_unplugged_pty_vanishes_and_the_board_keeps_what_it_holds(own: Simulator) -> None:
    w, x = quantize(torch.randn(16, 32), "MXFP4"), quantize(torch.randn(1, 32), "MXFP8")
    with RawBoard(own.url) as board:
        board.load(1, w.elements.numpy(), w.scales.numpy(), "MXFP4")
        board.give(x.elements.numpy(), x.scales.numpy(), "MXFP8")
        first, tag = board.run(1, 16, 1), board.tag
        own.unplug()
        assert own.url == "" and own.socket_url is None
        with pytest.raises(OSError, match=r"Input/output error"):
            board.send(ping(1))
    own.plug()
    with RawBoard(own.url) as board:
        board.tag = tag
        assert np.array_equal(board.run(1, 16, 1), first)


def test_an_unplugged_tcp_port_refuses_and_is_the_same_afterwards(own: Simulator) -> None:
    url = own.socket_url
    with call(own) as connection:
        connection.sendall(ping(3))
        assert answers(connection, 1) == [3]
        own.unplug()
        assert connection.recv(1) == b""
    port = int(str(url).rsplit(":", 1)[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)
    own.plug()
    assert own.socket_url == url
    with call(own) as connection:
        connection.sendall(ping(4))
        assert answers(connection, 1) == [4]


def test_a_bulk_load_uses_more_than_95_percent_of_a_byte_a_cycle(own: Simulator) -> None:
    """All of it waits before the board's clock runs: what is counted does not depend on how fast this machine is."""
    blocks, groups, chunk = 8, 15, 2016
    with RawBoard(own.url) as board:
        sizes = layout.weight_sizes(groups * board.geometry.group_rows, blocks, "MXFP8", board.geometry)
        begin = protocol.LoadBegin(1, format_number("MXFP8"), blocks, groups, 0, sizes[0], 0, sizes[1])
        requests = [(Message.LOAD_BEGIN, begin.encode())]
        data = bytes(i % 251 for i in range(sum(sizes)))
        for at in range(0, len(data), chunk):
            requests.append((Message.LOAD_CHUNK, protocol.load_chunk(1, at, data[at : at + chunk])))
        requests.append((Message.LOAD_COMMIT, protocol.handle_only(1)))
        own.pause()
        before = own.stats().cycles
        board.send(b"".join(encode_frame(protocol.encode_request(m, 9, payload)) for m, payload in requests))
        time.sleep(0.2)
        own.resume()
        assert [board.receive().status for _ in requests] == [Status.OK] * len(requests)
        assert len(data) / (own.stats().cycles - before) > 0.95


# ---------------------------------------------------------------------------- hosts


def test_a_host_that_does_not_read_loses_nothing(own: Simulator) -> None:
    """More than all buffers on the way hold: the board waits for the host, and the host for the board."""
    port = os.open(own.url, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    wanted = list(range(400))
    stream, deframer, got = b"".join(ping(n, bytes([n % 255 + 1]) * 1500) for n in wanted), Deframer(), []
    try:
        stalled = time.monotonic()
        while time.monotonic() - stalled < 1.0:
            try:
                stream = stream[os.write(port, stream) :]
                stalled = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
        assert stream, "everything was taken although nothing was read"
        while len(got) < len(wanted):
            readable, writable, _ = select.select([port], [port] if stream else [], [], 60)
            assert readable or writable, f"hung after {len(got)} answers"
            if readable:
                got += [protocol.decode(content).sequence for content in deframer.feed(os.read(port, 65536))]
            if writable:
                stream = stream[os.write(port, stream[:4096]) :]
    finally:
        os.close(port)
    assert got == wanted and deframer.bad == 0


def test_a_second_caller_is_turned_away_and_the_first_served(own: Simulator) -> None:
    with call(own) as first, call(own) as second:
        first.sendall(ping(1))
        assert answers(first, 1) == [1]
        assert second.recv(1) == b""
        first.sendall(ping(2))
        assert answers(first, 1) == [2]


def test_a_host_may_come_back_at_once(own: Simulator) -> None:
    for number in range(50):
        with call(own) as connection:
            connection.sendall(ping(number))
            assert answers(connection, 1) == [number]
    assert own.stats().connections == 50


def test_a_host_does_not_hear_what_the_last_one_left_unread(own: Simulator) -> None:
    with call(own) as connection:
        connection.sendall(b"".join(ping(n, bytes(2000)) for n in range(100)))
    with call(own) as connection:
        connection.sendall(b"\0" + ping(1000))  # the last frame may have been torn off
        assert answers(connection, 1) == [1000]
    with call(own) as connection:
        connection.sendall(b"".join(ping(n, bytes(2000)) for n in range(100)))
    with RawBoard(own.url, first=b"\0") as board:
        board.ask(Message.PING, b"next")


def test_while_a_host_has_the_pty_callers_are_turned_away(own: Simulator) -> None:
    with RawBoard(own.url) as board:
        with call(own) as connection:
            assert connection.recv(1) == b""
        board.ask(Message.PING, b"undisturbed")
    with call(own) as connection:
        connection.sendall(ping(5))
        assert answers(connection, 1) == [5]


# ---------------------------------------------------------------------------- the end


def test_without_a_byte_for_max_idle_it_ends_and_says_so(verilator: None) -> None:
    with Simulator(SMALL, max_idle_s=0.2) as simulator:
        assert gone(simulator.pid)
        with pytest.raises(SimulatorError, match=r"status 0.*no byte came for 0\.2 seconds"):
            simulator.stats()


def test_of_a_board_that_was_killed_one_hears(own: Simulator) -> None:
    os.kill(own.pid, signal.SIGKILL)
    with pytest.raises(SimulatorError, match=r"has ended \(status -9\)|ended at 'stats' \(status -9\)"):
        own.stats()
    assert not own.running


def test_even_a_board_that_hangs_ends_with_its_parent(verilator: None, repository: Path) -> None:
    """Stopped, it can read no end of file; the kernel kills it, as the main thread started it."""
    code = textwrap.dedent(STARTER).format(then="os.kill(simulator.pid, 19)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=repository) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
        parent.wait(60)
    assert gone(pid)


def test_a_fork_of_the_parent_that_exits_leaves_the_board_running(verilator: None, repository: Path) -> None:
    then = "os.fork() or sys.exit(); os.wait(); print(simulator.running, simulator.stats().idle, flush=True)"
    code = textwrap.dedent(STARTER).format(then=then)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=repository) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert parent.stdout.readline() == b"True True\n"
        parent.kill()


# ---------------------------------------------------------------------------- start()


@pytest.mark.slow
def test_start_gives_a_board_by_that_name_on_tcp_with_modelled_energy(verilator: None) -> None:
    with start(transport="tcp", rows=1, columns=1, energy="modelled", name="bench 7") as simulator:
        assert simulator.url.startswith("socket://127.0.0.1:") and simulator.url == simulator.socket_url
        deframer, frames = Deframer(), []
        with call(simulator) as connection:
            for message, payload in ((Message.HELLO, protocol.hello_request()), (Message.READ_ENERGY, b"")):
                connection.sendall(encode_frame(protocol.encode_request(message, 1, payload)))
            while len(frames) < 2:
                frames += [protocol.decode(content) for content in deframer.feed(connection.recv(4096))]
    hello = protocol.Hello.decode(frames[0].payload)
    assert (hello.name, hello.rows, hello.columns) == ("bench 7", 1, 1)
    assert Energy.decode(frames[1].payload).source is EnergySource.MODELLED
    assert gone(simulator.pid)


def test_start_refuses_what_a_simulated_board_is_not() -> None:
    with pytest.raises(ValueError, match=r"transport 'usb' is unknown; valid: pty, tcp"):
        start(transport="usb")
    with pytest.raises(ValueError, match=r"energy 'measured'"):
        start(energy="measured")
    with pytest.raises(ValueError, match=r"name must have"):
        start(name="a name of more than sixteen characters")
    with pytest.raises(ValueError, match=r"port=0 takes a free one"):
        Simulator(SMALL, pty=False)
    with pytest.raises(ValueError, match=r"modelled_watts must be above 0, not 0"):
        Simulator(SMALL, modelled_watts=0)
