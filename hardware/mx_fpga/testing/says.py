"""Level ``says``: what HELLO says is always the same, and holds."""

from __future__ import annotations

from mx_plugin.testing import Fault, Level, NotApplicable, demand

from .. import layout, protocol
from ..elements import BLOCK
from ..errors import Refused
from ..protocol import Hello, Message
from ..selftest import exact_codes
from .trial import BoardTrial

LEVEL = Level("board", "says", "what HELLO says is always the same, and holds", BoardTrial)
ATTEMPTS = 3
"""A real line may lose a byte now and then."""


@LEVEL.check
def the_same_again(trial: BoardTrial) -> None:
    """HELLO is answered the same whenever it is asked."""
    for _ in range(3):
        _demand_same(trial, protocol.hello_request(), "asked again")


@LEVEL.check
def newer_hosts(trial: BoardTrial) -> None:
    """A host of a newer minor protocol gets the same answer: it is the host that knows both."""
    major, minor = protocol.VERSION
    _demand_same(trial, bytes([major, minor + 9]), f"asked by a host of protocol {major}.{minor + 9}")


@LEVEL.check
def geometry(trial: BoardTrial) -> None:
    """A group of rows times all columns has as many results as HELLO says."""
    hello, shape = trial.hello, trial.geometry
    fmt = hello.format_names[0]
    w, x = exact_codes(shape.group_rows, BLOCK, fmt, 1), exact_codes(hello.columns, BLOCK, fmt, 2)
    due = 4 * shape.group_rows * hello.columns
    said = f"HELLO says {hello.rows} rows of {hello.group} turns and {hello.columns} columns"
    try:
        trial.load(0, w)
        trial.board.link.exchange(trial.give_requests(x))
        (reply,) = trial.board.link.exchange(trial.run_requests(0, shape.group_rows, hello.columns))
    except Refused as refused:
        raise Fault(f"{said}, but of a group of rows and as many tokens {refused}") from None
    demand(len(reply) == due, f"{said}: RUN of a group should answer {due} bytes, not {len(reply)}")


@LEVEL.check
def largest_requests(trial: BoardTrial) -> None:
    """As many of the largest requests as it has credits may be under way, and none is lost."""
    hello, link = trial.hello, trial.link
    link.credits = hello.credits
    pings = [(Message.PING, bytes((i + j) & 0xFF for j in range(hello.max_payload))) for i in range(4 * hello.credits)]
    for _ in range(ATTEMPTS):
        before = link.statistics.repeated
        demand(link.exchange(pings) == [payload for _, payload in pings], "the largest PINGs came back changed")
        lost = link.statistics.repeated - before
        if not lost:
            return
    raise Fault(
        f"of {len(pings)} requests of {hello.max_payload} bytes, {hello.credits} at once, {lost} had to be repeated",
        "say fewer credits in HELLO, or buffer as many requests as it says",
    )


@LEVEL.check
def longest_rows(trial: BoardTrial) -> None:
    """Rows of max_blocks blocks are multiplied whole."""
    hello, fmt = trial.hello, trial.hello.format_names[-1]
    sizes = layout.weight_sizes(1, hello.max_blocks, fmt, trial.geometry)
    if sizes[0] > hello.element_bytes or sizes[1] > hello.scale_bytes:
        raise NotApplicable(f"{trial.geometry.group_rows} rows of {hello.max_blocks} blocks exceed its memory")
    w = exact_codes(3, hello.max_blocks * BLOCK, fmt, 3)
    x = exact_codes(hello.columns, hello.max_blocks * BLOCK, fmt, 4)
    trial.demand_product(w, x, f"rows of {hello.max_blocks} blocks", "say in HELLO what fits")


def _demand_same(trial: BoardTrial, request: bytes, when: str) -> None:
    again = Hello.decode(trial.board.link.request(Message.HELLO, request))
    demand(again == trial.hello, f"HELLO, {when}, says {again}; at first it said {trial.hello}")
