"""Level ``faults``: whatever happens on the way, nothing is lost, nothing is wrong and nothing hangs."""

from __future__ import annotations

import threading

from mx_plugin.formats import MXTensor
from mx_plugin.testing import Fault, Level, demand

from ..errors import BoardError, LinkError
from ..protocol import Message
from .faulty_port import Plug
from .faulty_wire import KINDS, FaultyWire, some_faults
from .trial import QUICK_S, BoardTrial

LEVEL = Level("board", "faults", "nothing is lost, wrong or hung, whatever happens on the way", BoardTrial)

RETRIES = 12
LONGEST_S = 10.0
"""After so many seconds a request that nobody can answer hangs."""


@LEVEL.check
def damaged_bytes(trial: BoardTrial) -> None:
    """Bytes dropped, flipped, doubled, swapped, noise, half a frame and late replies change no bit of a product."""
    wire = FaultyWire()
    trial.damaged(wire)
    trial.link.retries = RETRIES
    w, x = _operands(trial)
    for number, kind in enumerate(KINDS):
        wire.board_side.faults = _ahead(wire.board_side.at, kind, number, 6, 3000)
        wire.host_side.faults = _ahead(wire.host_side.at, kind, number, 3, 500)
        trial.demand_product(w, x, f"with faults of the kind {kind!r} on the line", _CRC)
    at = wire.board_side.at + 1500
    wire.board_side.faults = dict.fromkeys(range(at, at + 900), "drop")
    trial.demand_product(w, x, "with a frame of which the rest was lost", "a delimiter ends whatever was before")
    wire.late_s, wire.late_replies = 1.5 * QUICK_S, 2
    trial.demand_product(w, x, "with replies that came late")


@LEVEL.check
def reset_in_the_middle(trial: BoardTrial) -> None:
    """A board that is reset behind the host's back refuses until it is loaded again; no product is wrong."""
    w, x = _operands(trial)
    on_board = trial.board.load_weight(w)
    for time in ("once", "twice", "three times"):
        trial.board.link.request(Message.RESET)
        trial.demand_bits(trial.board.run(on_board, x), w, x, f"the product after a reset, {time}")
    recovered = trial.board.traffic.recoveries
    demand(recovered >= 3, f"of three resets {recovered} were noticed: what was multiplied after the others was old")


@LEVEL.check
def unplugged(trial: BoardTrial) -> None:
    """A port that is lost in the middle of a product and comes back: the weight is loaded anew, no bit is wrong."""
    w, x = _operands(trial)
    on_board = trial.board.load_weight(w)
    plug = Plug(pull_after=100)
    trial.damaged(FaultyWire(), plug)
    trial.demand_bits(trial.board.run(on_board, x), w, x, "the product in which the port was lost")
    demand(plug.pulled, "the port was not lost: nothing was written through it")


@LEVEL.check
def cut_off(trial: BoardTrial) -> None:
    """A board that nobody hears is one error in bounded time; mended, it goes on."""
    w, x = _operands(trial)
    on_board = trial.board.load_weight(w)
    wire = FaultyWire()
    trial.damaged(wire)
    trial.link.retries, wire.cut_to_host = 1, True
    ended: list[BaseException | None] = []
    asking = threading.Thread(target=lambda: ended.append(_error_of_a_ping(trial)), daemon=True)
    asking.start()
    asking.join(LONGEST_S)
    wire.cut_to_host = False
    demand(ended, f"PING to a board that is cut off still waits after {LONGEST_S:g} s", "every wait needs a limit")
    if not isinstance(ended[0], LinkError):
        raise Fault(f"PING to a board that is cut off ended with {ended[0]!r}, not with a LinkError")
    trial.link.retries = RETRIES
    trial.demand_bits(trial.board.run(on_board, x), w, x, "the product after the line was mended")


_CRC = "check each frame's CRC-32 before anything is done with it"


def _operands(trial: BoardTrial) -> tuple[MXTensor, MXTensor]:
    """A weight of some kilobytes in frames as large as they may be, two batches of tokens."""
    w = trial.weight(groups=4, blocks=4)
    return w, trial.activations(w, tokens=2 * trial.hello.columns)


def _ahead(at: int, kind: str, seed: int, count: int, within: int) -> dict[int, str]:
    """Faults among the next bytes of a stream that stands at ``at``."""
    return {at + place: fault for place, fault in some_faults([kind], seed, count, within).items()}


def _error_of_a_ping(trial: BoardTrial) -> BaseException | None:
    try:
        trial.board.ping(b"anyone?")
    except BoardError as error:
        return error
    return None
