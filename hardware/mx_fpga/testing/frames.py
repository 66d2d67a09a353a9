"""Level ``frames``: every frame is answered once, under its number; what is no frame does no harm."""

from __future__ import annotations

from mx_plugin.testing import Level, demand

from .. import protocol, selftest
from ..protocol import Frame, Message, Status
from .trial import BoardTrial, frame

LEVEL = Level("board", "frames", "every frame is answered once, under its number", BoardTrial)

SEQUENCES = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF)
NO_MESSAGE = 0x55


@LEVEL.check
def echoes(trial: BoardTrial) -> None:
    """PINGs of all sizes, of zeros and without, come back."""
    trial.passes(selftest.echoes, remedy="see Framing in docs/fpga.md: runs of 254 bytes, zeros at the end")


@LEVEL.check
def sequence_numbers(trial: BoardTrial) -> None:
    """A reply carries its request's 16-bit number and message, and comes once."""
    for sequence in SEQUENCES:
        answers = trial.talk(frame(Message.COUNTERS, sequence))
        place = [(one.is_reply, one.message, one.sequence) for one in answers]
        due = (True, Message.COUNTERS, sequence)
        demand(place == [due], f"COUNTERS with sequence number {sequence} was answered by {_told(answers)}")


@LEVEL.check
def empty_frames(trial: BoardTrial) -> None:
    """Delimiters that follow each other are one end: nothing is said of them."""
    answers = trial.talk(bytes(5))
    demand(not answers, f"five delimiters were answered by {_told(answers)}", "a host may lead each frame with one")


@LEVEL.check
def damage_is_told(trial: BoardTrial) -> None:
    """A damaged frame is answered once, by BAD_FRAME with number 0."""
    sound = frame(Message.PING, 7, b"which was damaged")
    damaged = sound[:9] + bytes([sound[9] ^ 1]) + sound[10:]
    answers = trial.talk(damaged)
    place = [(one.is_reply, one.message, one.status, one.sequence) for one in answers]
    due = (True, Message.BAD_FRAME, Status.BAD_FRAME, 0)
    demand(place == [due], f"a frame with a wrong CRC was answered by {_told(answers)}, not by BAD_FRAME")


@LEVEL.check
def noise(trial: BoardTrial) -> None:
    """After noise of several kinds it finds its place again, and has counted damaged frames."""
    trial.passes(selftest.noise)


@LEVEL.check
def unknown_messages(trial: BoardTrial) -> None:
    """A message that it does not know is refused, as newer hosts have some."""
    answers = trial.talk(frame(NO_MESSAGE, 9, b"?"))
    place = [(one.is_reply, one.message, one.status, one.sequence) for one in answers]
    due = (True, NO_MESSAGE, Status.UNKNOWN_MESSAGE, 9)
    demand(place == [due], f"message {NO_MESSAGE:#x} was answered by {_told(answers)}, not by UNKNOWN_MESSAGE")


def _told(frames: list[Frame]) -> str:
    """Frames in words."""
    known = {int(message): message.name for message in protocol.Message}
    return (
        ", ".join(
            f"{known.get(one.message, hex(one.message))} (status {one.status}, number {one.sequence}"
            + (")" if one.is_reply else ", not marked as a reply)")
            for one in frames
        )
        or "nothing"
    )
