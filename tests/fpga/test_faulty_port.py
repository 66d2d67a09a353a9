"""A bad cable between a link and any board: it does what it is told, and the link comes through or says why not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mx_fpga.errors import LinkError, LinkReopened
from mx_fpga.fake import FakeBoard
from mx_fpga.fake_port import FakePort
from mx_fpga.link import Link
from mx_fpga.protocol import Message
from mx_fpga.testing import KINDS, FaultyPort, FaultyWire, Plug, Stream, some_faults

PINGS = [(Message.PING, bytes((i * 7 + j) & 0xFF for j in range(200))) for i in range(40)]


@pytest.fixture
def link() -> Iterator[Link]:
    with FakePort(FakeBoard()) as port, Link(port.url, timeout_s=0.15, backoff_s=0.001, reopen_s=2.0) as link:
        link.credits = 2
        yield link


def echoed(link: Link) -> bool:
    return link.exchange(PINGS) == [payload for _, payload in PINGS]


@pytest.mark.parametrize(
    ("kind", "arrives"),
    [("drop", b"ac"), ("flip", b"arc"), ("duplicate", b"abbc"), ("swap", b"acb"), ("garbage", b"a\x07\x00\x91\x33bc")],
)
def test_each_kind_of_damage_however_the_stream_is_cut(kind: str, arrives: bytes) -> None:
    whole, cut = Stream({1: kind}), Stream({1: kind})
    assert whole.carry(b"abc") == arrives
    assert b"".join(cut.carry(bytes([byte])) for byte in b"abc") == arrives
    assert whole.done == cut.done == 1 and whole.at == 3


def test_faults_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    faults = some_faults(KINDS, seed=1, count=20, within=500, after=100)
    assert faults == some_faults(KINDS, seed=1, count=20, within=500, after=100)
    assert faults != some_faults(KINDS, seed=2, count=20, within=500, after=100)
    assert len(faults) == 20 and min(faults) >= 100 and max(faults) < 500


@pytest.mark.parametrize("direction", ["to_board", "to_host"])
def test_damage_in_front_of_a_board_is_noticed_and_mended(link: Link, direction: str) -> None:
    wire = FaultyWire(**{direction: some_faults(KINDS, seed=5, count=10, within=7_000)})
    link.through(lambda port: FaultyPort(port, wire))
    assert echoed(link)
    assert wire.board_side.done + wire.host_side.done == 10
    assert link.statistics.repeated >= 5


def test_late_replies_come_in_order_and_are_asked_for_again(link: Link) -> None:
    wire = FaultyWire(late_s=0.4, late_replies=1)
    link.through(lambda port: FaultyPort(port, wire))
    assert echoed(link)
    assert link.statistics.timeouts >= 1 and link.statistics.ignored >= 1


def test_a_cut_is_one_error_in_bounded_time_and_may_be_mended(link: Link) -> None:
    wire = FaultyWire()
    link.through(lambda port: FaultyPort(port, wire))
    link.retries, wire.cut_to_host = 1, True
    began = time.monotonic()
    with pytest.raises(LinkError, match="in 2 attempts: no reply"):
        echoed(link)
    assert time.monotonic() - began < 5
    wire.cut_to_host = False
    assert echoed(link)


def test_a_pulled_cable_is_a_lost_port_that_comes_back_with_the_same_faults(link: Link) -> None:
    wire, plug = FaultyWire(), Plug(pull_after=1000)
    link.through(lambda port: FaultyPort(port, wire, plug))
    with pytest.raises(LinkReopened, match="the cable was pulled, by a FaultyPort; it is back"):
        echoed(link)
    assert plug.pulled and link.statistics.reopened == 1
    before = wire.board_side.at
    assert echoed(link) and wire.board_side.at > before, "the new port goes through the wire too"


def test_a_stalled_write_is_repeated_and_many_of_them_are_an_error(link: Link) -> None:
    plug = Plug(stalled_writes=2)
    link.through(lambda port: FaultyPort(port, FaultyWire(), plug))
    assert echoed(link)
    plug.stalled_writes = 1000
    with pytest.raises(LinkError, match="no more bytes are taken, by a FaultyPort"):
        echoed(link)
