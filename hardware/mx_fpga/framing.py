"""Frames on a byte stream: CRC-32 (zlib's) behind the content, COBS around both, a zero byte at the end.

COBS (Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1999) leaves no zero byte inside a frame and costs one
byte in 254, so a receiver that lost its place finds it again at the next zero. Several zeros in a row are one end.
"""

from __future__ import annotations

import struct
import zlib

DELIMITER = b"\0"
MAX_CONTENT = 2044
"""Largest content of a frame, in bytes; with its CRC it fills a board's buffer of 2048."""

_CRC = struct.Struct("<I")
_LONGEST_RUN = 254


class FrameError(ValueError):
    """Bytes between two delimiters that are no frame; the message says why."""


def cobs_encode(data: bytes) -> bytes:
    """Stuff ``data`` so that it holds no zero byte; at most len // 254 + 1 bytes longer."""
    out = bytearray()
    runs = data.split(DELIMITER)
    for place, run in enumerate(runs):
        while len(run) >= _LONGEST_RUN:
            out += b"\xff" + run[:_LONGEST_RUN]
            run = run[_LONGEST_RUN:]
            if not run and place == len(runs) - 1:  # the data end with a full run, which stands for no zero
                return bytes(out)
        out.append(len(run) + 1)
        out += run
    return bytes(out)


def cobs_decode(stuffed: bytes) -> bytes:
    """Undo :func:`cobs_encode`.

    Raises:
        FrameError: a zero byte inside, or a run that reaches past the end.
    """
    if 0 in stuffed:
        raise FrameError(f"zero byte at {stuffed.index(0)} inside a stuffed frame")
    out = bytearray()
    at = 0
    while at < len(stuffed):
        code = stuffed[at]
        run = stuffed[at + 1 : at + code]
        if len(run) != code - 1:
            raise FrameError(f"run of {code - 1} bytes at {at} reaches past the end of {len(stuffed)}")
        out += run
        at += code
        if code <= _LONGEST_RUN and at < len(stuffed):
            out.append(0)
    return bytes(out)


def encode_frame(content: bytes) -> bytes:
    """What goes over the wire for ``content``, delimiter included.

    Raises:
        FrameError: more than ``MAX_CONTENT`` bytes.
    """
    if len(content) > MAX_CONTENT:
        raise FrameError(f"a frame holds {MAX_CONTENT} bytes of content, not {len(content)}: send it in parts")
    return cobs_encode(content + _CRC.pack(zlib.crc32(content))) + DELIMITER


def decode_frame(stuffed: bytes) -> bytes:
    """Content of the bytes between two delimiters.

    Raises:
        FrameError: broken stuffing, too short, too long, or a wrong CRC.
    """
    raw = cobs_decode(stuffed)
    if not _CRC.size < len(raw) <= MAX_CONTENT + _CRC.size:
        raise FrameError(f"a frame has {_CRC.size + 1}..{MAX_CONTENT + _CRC.size} bytes, not {len(raw)}")
    content, (crc,) = raw[: -_CRC.size], _CRC.unpack(raw[-_CRC.size :])
    if crc != zlib.crc32(content):
        raise FrameError(f"CRC {zlib.crc32(content):08x} of {len(content)} bytes, but the frame says {crc:08x}")
    return content


class Deframer:
    """Cuts a byte stream at its delimiters; keeps what is not yet complete.

    ``bad`` counts pieces that were no frame. Pieces longer than any frame are dropped as they come, so noise without a
    delimiter cannot fill the memory.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._overlong = False
        self.bad = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Contents of the frames that ``data`` completes, in order."""
        contents = []
        *ends, rest = data.split(DELIMITER)
        for piece in ends:
            self._take(piece)
            if self._overlong or self._pending:
                try:
                    if self._overlong:
                        raise FrameError("longer than any frame")
                    contents.append(decode_frame(bytes(self._pending)))
                except FrameError:
                    self.bad += 1
            self.reset()
        self._take(rest)
        return contents

    def reset(self) -> None:
        """Forget the incomplete frame."""
        self._pending.clear()
        self._overlong = False

    def _take(self, piece: bytes) -> None:
        longest = MAX_CONTENT + _CRC.size + (MAX_CONTENT + _CRC.size) // _LONGEST_RUN + 1
        if len(self._pending) + len(piece) > longest:
            self._overlong = True
            self._pending.clear()
        if not self._overlong:
            self._pending += piece
