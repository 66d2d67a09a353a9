"""Broken boards: what they hold gets lost, mixed up or stays for ever; and a frame that is not checked."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from mx_fpga.board import Board
from mx_fpga.errors import DoesNotFit
from mx_fpga.fake import FakeBoard, _Refusal, _Weight
from mx_fpga.framing import Deframer, FrameError, cobs_decode, decode_frame
from mx_fpga.protocol import Message, Status
from tests.conformance.broken.boards import BOARDS, behind_a_port, opened


@behind_a_port("memory-refusals")
class TakesTooManyTokens(FakeBoard):
    def _take_activations(self, payload: bytes) -> bytes:
        return b"" if payload[3] > self.hello.columns else super()._take_activations(payload)


@behind_a_port("memory-reloads", alone=False)
class LeaksHandles(FakeBoard):
    """Keeps a place for every weight that was ever loaded since the last RESET."""

    taken = 0

    def reset(self) -> None:
        super().reset()
        self.taken = 0

    def _load_begin(self, payload: bytes) -> bytes:
        self.taken += 1
        if self.taken > self.hello.handles:
            raise _Refusal(Status.OUT_OF_MEMORY)
        return super()._load_begin(payload)


@behind_a_port("memory-reloads")
class LeaksAFewBytes(FakeBoard):
    """Of every weight that replaces another; after more than forty of them nothing fits."""

    replaced = 0

    def reset(self) -> None:
        super().reset()
        self.replaced = 0

    def _load_begin(self, payload: bytes) -> bytes:
        self.replaced += payload[0] in self._weights
        if self.replaced > 45:
            raise _Refusal(Status.OUT_OF_MEMORY)
        return super()._load_begin(payload)


@behind_a_port("memory-every_handle")
class MixesUpTwoHandles(FakeBoard):
    def _run(self, payload: bytes) -> bytes:
        return super()._run(b"\7" + payload[1:] if payload[0] == 15 else payload)


@behind_a_port("memory-addresses")
class LacksAnAddressLine(FakeBoard):
    """Of the element memory: what lies in its upper half is that of the lower."""

    def _load_begin(self, payload: bytes) -> bytes:
        half = self.hello.element_bytes // 2
        handle, fmt, blocks, groups, zero, base, size, *scales = struct.unpack("<BBHHHIIII", payload)
        base = base % half if size <= half and base + size <= 2 * half else base
        return super()._load_begin(struct.pack("<BBHHHIIII", handle, fmt, blocks, groups, zero, base, size, *scales))


@behind_a_port("memory-side_by_side")
class MixesUpFormats(FakeBoard):
    def _run(self, payload: bytes) -> bytes:
        others = [handle for handle in self._weights if handle != payload[0]]
        mixed = len({weight.begin.format for weight in self._weights.values()}) > 2
        return super()._run(bytes([others[0]]) + payload[1:] if mixed else payload)


@behind_a_port("memory-half_loaded")
class CommitsHalfAWeight(FakeBoard):
    def _load_commit(self, payload: bytes) -> bytes:
        self._being_loaded(payload[0]).committed = True
        return b""


@behind_a_port("memory-freed")
class FreesNothing(FakeBoard):
    def _free(self, payload: bytes) -> bytes:
        return b""


@behind_a_port("memory-reset_forgets")
class KeepsActivations(FakeBoard):
    def _reset(self, payload: bytes) -> bytes:
        kept = self._activations
        super()._reset(payload)
        self._activations = kept
        return b""


@behind_a_port("memory-reset_forgets", alone=False)
class KeepsWeights(FakeBoard):
    def _reset(self, payload: bytes) -> bytes:
        kept = self._weights
        super()._reset(payload)
        self._weights = kept
        return b""


@behind_a_port("memory-repeated_requests")
class CommitsOnce(FakeBoard):
    def _load_commit(self, payload: bytes) -> bytes:
        reply = super()._load_commit(payload)
        self._loading = None
        return reply


@behind_a_port("memory-repeated_requests", alone=False)
class DoesNotAnswerRetries(FakeBoard):
    """Takes a request that came before for done, and says nothing."""

    last = b""

    def _answer(self, content: bytes) -> bytes:
        request, self.last, before = content[:1] + content[4:], content[:1] + content[4:], self.last
        if request == before and content[0] in (Message.LOAD_BEGIN, Message.LOAD_CHUNK, Message.RUN):
            return b""
        return super()._answer(content)


@behind_a_port("memory-many_groups")
class CountsGroupsInEightBits(FakeBoard):
    def _w(self, weight: _Weight, first: int, groups: int) -> Any:
        rows = super()._w(weight, first, groups)
        return rows if first + groups <= 256 else replace(rows, scales=rows.scales * 2)


@BOARDS.caught_by("memory-too_large")
def fails_at_long_rows() -> Board:
    class Failing(Board):
        def load_weight(self, packed: Any, *, now: bool = True) -> Any:
            try:
                return super().load_weight(packed, now=now)
            except DoesNotFit:
                raise IndexError("list index out of range") from None

    return opened(FakeBoard(), Failing)


class _TrustsLongFrames(Deframer):
    """Looks at the CRC of short frames only."""

    def feed(self, data: bytes) -> list[bytes]:
        self._bytes = getattr(self, "_bytes", b"") + data
        *pieces, self._bytes = self._bytes.split(b"\0")
        contents = []
        for piece in filter(None, pieces):
            try:
                contents.append(decode_frame(piece))
            except FrameError:
                contents += self._trusted(piece)
        return contents

    def _trusted(self, piece: bytes) -> list[bytes]:
        try:
            raw = cobs_decode(piece)
        except FrameError:
            raw = b""
        if 1500 < len(raw) <= 2048:
            return [raw[:-4]]
        self.bad += 1
        return []


@behind_a_port("faults-damaged_bytes")
class TrustsLongFrames(FakeBoard):
    def power_up(self) -> None:
        super().power_up()
        self._deframer = _TrustsLongFrames()
