"""Broken boards: each does one thing wrong. Made of software, behind a real port, as ``fake:`` is."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mx_fpga import protocol
from mx_fpga.board import Board
from mx_fpga.errors import LinkError, LinkReopened
from mx_fpga.fake import DEFAULT, FakeBoard
from mx_fpga.fake_port import FakePort
from mx_fpga.framing import encode_frame
from mx_fpga.link import Link
from mx_fpga.protocol import Counters, Energy, EnergySource, Message, Status
from tests.conformance.broken.collection import Broken, Collection

BOARDS = Collection()
T = TypeVar("T", bound=type[FakeBoard])


def opened(fake: FakeBoard, made: type[Board] = Board, **link: Any) -> Board:
    """A board made of software, which is not called simulated, so that it may claim what it likes."""
    port = FakePort(fake)
    return made(Link(port.url, **link), on_close=port.close)


def behind_a_port(check: str, alone: bool = True) -> Callable[[T], T]:
    """Decorator of a broken :class:`FakeBoard`: the host's side is sound."""

    def collect(cls: T) -> T:
        def make() -> Board:
            return opened(cls())

        make.__name__ = cls.__name__
        BOARDS.append(Broken(make, check, alone))
        return cls

    return collect


class Saying(FakeBoard):
    """A board that says other things of itself: ``said`` is a field of HELLO each."""

    said: ClassVar[Mapping[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__(replace(DEFAULT, **self.said))


# ---------------------------------------------------------------------------- loads


@BOARDS.caught_by("loads-is_a_board")
class NoBoard:
    def __init__(self) -> None:
        self._inner = opened(FakeBoard())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@behind_a_port("loads-is_a_board", alone=False)
class OfAnotherMajor(Saying):
    said: ClassVar[Mapping[str, Any]] = {"version": (2, 0)}


@BOARDS.caught_by("loads-is_a_board", alone=False)
def simulated_and_measures() -> Board:
    port = FakePort(FakeBoard(replace(DEFAULT, energy=EnergySource.MEASURED)))
    return Board(Link(port.url), simulated=True, on_close=port.close)


@behind_a_port("loads-says_its_name")
class Nameless(Saying):
    said: ClassVar[Mapping[str, Any]] = {"name": ""}


@BOARDS.caught_by("loads-describes_itself")
def describes_an_object() -> Board:
    class Describing(Board):
        def describe(self) -> dict[str, Any]:
            return {"hello": self.hello}

    return opened(FakeBoard(), Describing)


# ---------------------------------------------------------------------------- says


@behind_a_port("says-the_same_again")
class ChangesItsMind(FakeBoard):
    def _hello(self, payload: bytes) -> bytes:
        again = self.requests[-2:-1] == [Message.HELLO]
        return replace(self.hello, clock_hz=1).encode() if again else super()._hello(payload)


@behind_a_port("says-newer_hosts")
class SpeaksAsItIsSpokenTo(FakeBoard):
    def _hello(self, payload: bytes) -> bytes:
        return replace(self.hello, version=(payload[0], payload[1])).encode()


@behind_a_port("says-geometry")
class AnswersAGroupTooMany(FakeBoard):
    def _run(self, payload: bytes) -> bytes:
        reply = super()._run(payload)
        return reply + reply if len(reply) == 4 * self.geometry.group_rows * self.hello.columns else reply


@behind_a_port("says-geometry", alone=False)
class LiesAboutItsColumns(FakeBoard):
    def _hello(self, payload: bytes) -> bytes:
        return replace(self.hello, columns=4).encode()


@behind_a_port("says-geometry", alone=False)
class LiesAboutItsRows(FakeBoard):
    def _hello(self, payload: bytes) -> bytes:
        return replace(self.hello, rows=4).encode()


@behind_a_port("says-largest_requests")
class LosesSomeLargeRequests(FakeBoard):
    """Says that it holds two, and drops one now and then."""

    pings = 0

    def _answer(self, content: bytes) -> bytes:
        self.pings += content[0] == Message.PING and len(content) > 2000
        lost = content[0] == Message.PING and len(content) > 2000 and self.pings % 5 == 4
        return protocol.encode_reply(Message.PING, 0) if lost else super()._answer(content)


@behind_a_port("says-longest_rows")
class CountsBlocksInSevenBits(FakeBoard):
    def _multiply(self, x: Any, w: Any) -> Any:
        return super()._multiply(x, w) * (1 if w.blocks < 128 else 2)


# ---------------------------------------------------------------------------- frames


@behind_a_port("frames-echoes")
class StuffsOneRunWrong(FakeBoard):
    def _ping(self, payload: bytes) -> bytes:
        return payload if len(payload) != 254 else payload[:-1]


@behind_a_port("frames-sequence_numbers")
class TakesZeroForNoNumber(FakeBoard):
    def _answer(self, content: bytes) -> bytes:
        reply = super()._answer(content)
        return reply if content[2:4] != b"\0\0" else reply[:2] + b"\xff\xff" + reply[4:]


@behind_a_port("frames-empty_frames")
class MindsDelimiters(FakeBoard):
    def feed(self, data: bytes) -> bytes:
        bad = protocol.encode_reply(Message.BAD_FRAME, 0, status=Status.BAD_FRAME)
        return (encode_frame(bad) if bytes(3) in data else b"") + super().feed(data)


@behind_a_port("frames-damage_is_told")
class NumbersBadFrames(FakeBoard):
    def feed(self, data: bytes) -> bytes:
        bad = encode_frame(protocol.encode_reply(Message.BAD_FRAME, 0, status=Status.BAD_FRAME))
        numbered = encode_frame(protocol.encode_reply(Message.BAD_FRAME, 1, status=Status.BAD_FRAME))
        return super().feed(data).replace(bad, numbered)


@behind_a_port("frames-noise")
class CountsNoBadFrames(FakeBoard):
    def _counters(self, payload: bytes) -> bytes:
        return replace(Counters.decode(super()._counters(payload)), frames_bad=0).encode()


@behind_a_port("frames-unknown_messages")
class AnswersWhatItDoesNotKnow(FakeBoard):
    def _answer(self, content: bytes) -> bytes:
        reply = super()._answer(content)
        known = reply[1] != Status.UNKNOWN_MESSAGE
        return reply if known else bytes([reply[0], Status.OK]) + reply[2:]


# ---------------------------------------------------------------------------- counts


@behind_a_port("counts-cycles")
class CountsPassesTwice(FakeBoard):
    def _counters(self, payload: bytes) -> bytes:
        counted = Counters.decode(super()._counters(payload))
        return replace(counted, passes=2 * counted.passes).encode()


class Modelling(Saying):
    """Nothing is wrong with this one."""

    said: ClassVar[Mapping[str, Any]] = {"energy": EnergySource.MODELLED}


@behind_a_port("counts-totals")
class LosesEnergyByReading(Modelling):
    readings = 0

    def _read_energy(self, payload: bytes) -> bytes:
        energy = Energy.decode(super()._read_energy(payload))
        self.readings += 1
        return replace(energy, microjoules=energy.microjoules + 100 - self.readings).encode()


@behind_a_port("counts-totals", alone=False)
class SaysNoneAndModels(FakeBoard):
    def _read_energy(self, payload: bytes) -> bytes:
        energy = Energy.decode(super()._read_energy(payload))
        return replace(energy, source=EnergySource.MODELLED, microjoules=self.total_busy_cycles).encode()


@behind_a_port("counts-none_is_not_zero")
class ZeroInsteadOfNone(Modelling):
    def _read_energy(self, payload: bytes) -> bytes:
        return replace(Energy.decode(super()._read_energy(payload)), microjoules=0).encode()


# ---------------------------------------------------------------------------- faults


@behind_a_port("faults-reset_in_the_middle")
class StandsOnlySixResets(FakeBoard):
    resets = 0

    def _reset(self, payload: bytes) -> bytes:
        self.resets += 1
        return super()._reset(payload)

    def _multiply(self, x: Any, w: Any) -> Any:
        return super()._multiply(x, w) * (1 if self.resets <= 6 else 0)


@BOARDS.caught_by("faults-unplugged")
def comes_back_elsewhere() -> Board:
    """Behind a path that is gone once it was opened, as of a device that gets another name each time."""
    folder = Path(tempfile.mkdtemp())
    port = FakePort(FakeBoard())
    path = folder / "board"
    path.symlink_to(port.url)

    def close() -> None:
        port.close()
        shutil.rmtree(folder)

    board = Board(Link(str(path), reopen_s=0.2), on_close=close)
    path.unlink()
    return board


@BOARDS.caught_by("faults-cut_off")
def never_gives_up() -> Board:
    class Stubborn(Link):
        def exchange(self, requests: Any) -> list[bytes]:
            every = list(requests)
            while True:
                try:
                    return super().exchange(every)
                except LinkReopened:
                    raise
                except LinkError:
                    if self._closed:
                        raise

    port = FakePort(FakeBoard())
    return Board(Stubborn(port.url), on_close=port.close)


# ---------------------------------------------------------------------------- closes


@BOARDS.caught_by("closes-twice")
def closes_once() -> Board:
    class Once(Board):
        closed = 0

        def close(self) -> None:
            super().close()
            self.closed += 1
            if self.closed > 1:
                raise RuntimeError("closed already")

    return opened(FakeBoard(), Once)


@BOARDS.caught_by("closes-then_answers_nothing")
def forgets_its_link() -> Board:
    class Forgetful(Board):
        def ping(self, data: bytes) -> bytes:
            if self.link._closed:
                raise AttributeError("'NoneType' object has no attribute 'write'")
            return super().ping(data)

    return opened(FakeBoard(), Forgetful)


@BOARDS.caught_by("closes-gives_everything_back")
def leaves_a_file_open() -> Board:
    os.open(os.devnull, os.O_RDONLY)
    return opened(FakeBoard())
