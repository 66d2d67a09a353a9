"""A wire that damages a byte stream at chosen places, whichever way the stream is cut into reads."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

KINDS = ("drop", "flip", "duplicate", "swap", "garbage")


class Stream:
    """One direction. ``faults``: place in the stream -> kind; a swap exchanges a byte with the next one."""

    def __init__(self, faults: dict[int, str] | None = None) -> None:
        self.faults = faults or {}
        self.at = 0
        self.done = 0
        self._held = b""

    def carry(self, data: bytes) -> bytes:
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
    """Two damaged streams; the first ``late_replies`` replies are held back for ``late_s`` seconds each."""

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
        data = self.board_side.carry(data)
        return b"" if self.cut_to_board else data

    def to_host(self, data: bytes) -> bytes:
        if self.late_replies and data:
            self.late_replies -= 1
            time.sleep(self.late_s)
        data = self.host_side.carry(data)
        return b"" if self.cut_to_host else data


def some_faults(kinds: Iterable[str], seed: int, count: int, within: int, after: int = 0) -> dict[int, str]:
    """``count`` faults at random places ``after`` .. ``within`` of a stream; the same for the same seed."""
    draw = random.Random(seed)
    kinds = list(kinds)
    return {place: draw.choice(kinds) for place in draw.sample(range(after, within), count)}
