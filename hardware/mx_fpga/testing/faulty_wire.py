"""A wire that damages a byte stream at chosen places, whichever way the stream is cut into reads."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

KINDS = ("drop", "flip", "duplicate", "swap", "garbage")
"""What may happen to a byte: it is lost, has a bit flipped, comes twice, changes places with the next one, or has four
bytes of noise in front of it."""


class Stream:
    """One direction of a wire.

    Args:
        faults: place in the stream -> kind, one of :data:`KINDS`. May be changed at any time.

    ``at``: bytes that have come so far, which is the place of the next one. ``done``: faults that have happened.
    """

    def __init__(self, faults: dict[int, str] | None = None) -> None:
        self.faults = faults or {}
        self.at = 0
        self.done = 0
        self._held = b""

    def carry(self, data: bytes) -> bytes:
        """What arrives when ``data`` is sent next."""
        out = bytearray()
        for byte in data:
            one = bytes([byte])
            kind = self.faults.get(self.at)
            self.at += 1
            self.done += kind is not None
            if kind == "drop":
                one = b""
            elif kind == "flip":
                one = bytes([byte ^ 0x10])
            elif kind == "duplicate":
                one = one + one
            elif kind == "garbage":
                one = b"\x07\x00\x91\x33" + one
            elif kind == "swap":
                self._held = one
                continue
            out += one + self._held
            self._held = b""
        return bytes(out)


class FaultyWire:
    """Two damaged streams between a host and a board, for :class:`FaultyPort` or ``mx_fpga.fake_port.FakePort``.

    Args:
        to_board, to_host: faults of each direction, see :class:`Stream` and :func:`some_faults`.
        late_s, late_replies: the first ``late_replies`` pieces for the host are held back for ``late_s`` seconds each.

    ``board_side``, ``host_side``: the streams. ``cut_to_board``, ``cut_to_host``: while True, nothing arrives there.
    """

    def __init__(
        self,
        to_board: dict[int, str] | None = None,
        to_host: dict[int, str] | None = None,
        *,
        late_s: float = 0.0,
        late_replies: int = 0,
    ) -> None:
        self.board_side, self.host_side = Stream(to_board), Stream(to_host)
        self.late_s, self.late_replies = late_s, late_replies
        self.cut_to_board = self.cut_to_host = False

    def to_board(self, data: bytes) -> bytes:
        """What the board gets of ``data``."""
        data = self.board_side.carry(data)
        return b"" if self.cut_to_board else data

    def to_host(self, data: bytes) -> bytes:
        """What the host gets of ``data``, after the delay that is due."""
        time.sleep(self.delay_s(data))
        return self.damaged_for_host(data)

    def damaged_for_host(self, data: bytes) -> bytes:
        """What the host gets of ``data``, without a delay."""
        data = self.host_side.carry(data)
        return b"" if self.cut_to_host else data

    def delay_s(self, data: bytes) -> float:
        """Seconds for which ``data``, on its way to the host, is held back; each call counts as a piece."""
        if not self.late_replies or not data:
            return 0.0
        self.late_replies -= 1
        return self.late_s


def some_faults(kinds: Iterable[str], seed: int, count: int, within: int, after: int = 0) -> dict[int, str]:
    """``count`` faults at random places ``after`` .. ``within`` of a stream; the same for the same seed."""
    draw = random.Random(seed)
    kinds = list(kinds)
    return {place: draw.choice(kinds) for place in draw.sample(range(after, within), count)}
