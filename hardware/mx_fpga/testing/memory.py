"""Level ``memory``: weights lie where they were put, until they are freed, replaced or reset."""

from __future__ import annotations

from collections.abc import Sequence

from mx_plugin.errors import MXError
from mx_plugin.testing import Fault, Level, NotApplicable, demand

from .. import layout, protocol, selftest
from ..elements import BLOCK
from ..protocol import Message, Status
from ..selftest import exact_codes
from .trial import BoardTrial

LEVEL = Level("board", "memory", "weights lie where they were put, until they are freed or replaced", BoardTrial)

MOST_HANDLES = 256
"""So many are tried, spread over all that there are."""

GROUPS = 257
"""More than eight bits count."""


@LEVEL.check
def refusals(trial: BoardTrial) -> None:
    """What cannot be - no such weight, beyond the memory, too short, too many tokens - is refused with its status."""
    trial.passes(selftest.refusals)


@LEVEL.check
def reloads(trial: BoardTrial) -> None:
    """Weights may be loaded and unloaded without end: no handle and no byte leaks."""
    board, fmt = trial.board, trial.hello.format_names[0]
    rounds = min(4 * trial.hello.handles, 2 * MOST_HANDLES)
    w, x = exact_codes(1, BLOCK, fmt, 1), exact_codes(1, BLOCK, fmt, 2)
    for _ in range(rounds):
        board.unload_weight(board.load_weight(w))
    demand(not board.memory.evictions, f"{board.memory.evictions} of {rounds} weights had to make room for others")
    trial.demand_product(w, x, f"the weight after {rounds} that were unloaded")


@LEVEL.check
def every_handle(trial: BoardTrial) -> None:
    """Every handle of 0 .. handles - 1 holds a weight of its own."""
    sizes = _sizes(trial)
    room = min(trial.hello.element_bytes // sizes[0], trial.hello.scale_bytes // sizes[1], MOST_HANDLES)
    handles = _spread(trial.hello.handles, room)
    places = [(handle, (at * sizes[0], at * sizes[1])) for at, handle in enumerate(handles)]
    _demand_apart(trial, places, "handle")


@LEVEL.check
def addresses(trial: BoardTrial) -> None:
    """Both memories hold what was put anywhere in them, up to the last byte that HELLO says."""
    elements, scales = _sizes(trial)
    word, rows = trial.geometry.word_bytes, trial.geometry.rows
    high = _places(trial.hello.element_bytes, elements, word)[-trial.hello.handles :]
    low = min(trial.hello.scale_bytes // scales, len(high))
    _demand_apart(trial, [(at, (base, at * scales)) for at, base in enumerate(high[-low:])], "elements at")
    high = _places(trial.hello.scale_bytes, scales, rows)[-trial.hello.handles :]
    low = min(trial.hello.element_bytes // elements, len(high))
    _demand_apart(trial, [(at, (at * elements, base)) for at, base in enumerate(high[-low:])], "scales at")


@LEVEL.check
def side_by_side(trial: BoardTrial) -> None:
    """Weights of several formats that lie there together are kept apart."""
    trial.passes(selftest.side_by_side)


@LEVEL.check
def half_loaded(trial: BoardTrial) -> None:
    """LOAD_BEGIN takes away what the handle held, and LOAD_COMMIT waits for the last byte."""
    w = trial.weight(groups=1, blocks=1)
    x = trial.activations(w)
    trial.load(0, w)
    trial.multiply(0, w, x)
    begin, *_, commit = trial.load_requests(0, w)
    trial.board.link.exchange([begin])
    (run,) = trial.run_requests(0, w.shape[0], 1)
    trial.demand_refused(*run, Status.BAD_HANDLE, "of a weight that is being replaced")
    taken = protocol.decode_u32(trial.demand_refused(*commit, Status.INCOMPLETE, "of a weight without its bytes"))
    demand(taken == 0, f"LOAD_COMMIT of a weight without its bytes says that {taken} have come")


@LEVEL.check
def freed(trial: BoardTrial) -> None:
    """FREE takes the weight away, may be repeated, and leaves the handle to the next."""
    w = trial.weight(groups=1, blocks=1)
    x = trial.activations(w)
    trial.load(0, w)
    trial.multiply(0, w, x)
    free = (Message.FREE, protocol.handle_only(0))
    trial.board.link.exchange([free, free])
    (run,) = trial.run_requests(0, w.shape[0], 1)
    trial.demand_refused(*run, Status.BAD_HANDLE, "of a weight that was freed")
    other = trial.weight(groups=1, blocks=1, seed=2)
    trial.load(0, other)
    trial.demand_bits(trial.multiply(0, other, x), other, x, "the weight that took a freed handle")


@LEVEL.check
def reset_forgets(trial: BoardTrial) -> None:
    """RESET takes away weights, activations and counts, so that nothing old is multiplied after it."""
    w = trial.weight(groups=1, blocks=1)
    x = trial.activations(w)
    trial.load(0, w)
    trial.multiply(0, w, x)
    (run,) = trial.run_requests(0, w.shape[0], 1)
    trial.board.link.request(Message.RESET)
    passes = trial.board.counters().passes
    demand(passes == 0, f"after RESET the counters still hold {passes} passes")
    trial.demand_refused(*run, Status.BAD_HANDLE, "of a weight from before RESET")
    trial.load(0, w)
    trial.demand_refused(*run, Status.NO_ACTIVATIONS, "with activations from before RESET")


@LEVEL.check
def repeated_requests(trial: BoardTrial) -> None:
    """Each request sent twice, as after a reply that was lost, has no further effect."""
    w = trial.weight(groups=5, blocks=2)
    trial.hurry()
    x = trial.activations(w)
    trial.board.link.exchange(_twice(trial.load_requests(0, w)))
    trial.board.link.exchange(_twice(trial.give_requests(x)))
    replies = trial.board.link.exchange(_twice(trial.run_requests(0, w.shape[0], x.shape[0])))
    for first, again in zip(replies[::2], replies[1::2], strict=True):
        demand(first == again, "RUN, sent twice, was answered differently the second time")
    trial.demand_bits(trial.results(replies[::2], w, x), w, x, "a product of which each request was sent twice")


@LEVEL.check
def many_groups(trial: BoardTrial) -> None:
    """A weight of more groups than eight bits count is multiplied whole."""
    rows = GROUPS * trial.geometry.group_rows
    fmt = min(trial.hello.format_names, key=layout.block_bytes)
    if trial.board.memory.groups_that_fit(1, fmt) < GROUPS:
        raise NotApplicable(f"{rows} rows exceed its memory")
    trial.demand_product(exact_codes(rows, BLOCK, fmt, 1), exact_codes(1, BLOCK, fmt, 2), f"{GROUPS} groups of rows")


@LEVEL.check
def too_large(trial: BoardTrial) -> None:
    """A row longer than it takes is refused, with the sizes, and the board goes on."""
    hello, fmt = trial.hello, _format(trial)
    long = exact_codes(1, (hello.max_blocks + 1) * BLOCK, fmt, 1)
    try:
        trial.board.load_weight(long)
    except MXError as error:
        told = str(hello.max_blocks * BLOCK)
        demand(told in str(error), f"the refusal of a row of {long.shape[1]} does not say that {told} fit: {error}")
    else:
        raise Fault(f"a row of {hello.max_blocks + 1} blocks was taken; HELLO says that there are {hello.max_blocks}")
    w = trial.weight(groups=1, blocks=1)
    trial.demand_product(w, trial.activations(w), "the product after a refusal")


# ---------------------------------------------------------------------------- operands and places


def _format(trial: BoardTrial) -> str:
    return trial.hello.format_names[0]


def _sizes(trial: BoardTrial) -> tuple[int, int]:
    """Bytes of elements and scales of a weight of one group of rows, one block."""
    return layout.weight_sizes(trial.geometry.group_rows, 1, _format(trial), trial.geometry)


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` of 0 .. count - 1, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({at * (count - 1) // max(most - 1, 1) for at in range(most)})


def _places(memory: int, size: int, align: int) -> list[int]:
    """Places for ``size`` bytes that differ in every address line, the first and the last there are among them."""
    found = [0]
    at = -(-size // align) * align
    while at + size <= memory:
        found.append(at)
        at *= 2
    last = (memory - size) // align * align
    return [*found, last] if last >= found[-1] + size else found


def _demand_apart(trial: BoardTrial, places: Sequence[tuple[int, tuple[int, int]]], what: str) -> None:
    """Load a weight at every (handle, (element base, scale base)), then multiply all of them."""
    weights = [trial.weight(groups=1, blocks=1, seed=seed) for seed in range(len(places))]
    x = trial.activations(weights[0])
    for (handle, base), w in zip(places, weights, strict=True):
        trial.load(handle, w, base)
    for (handle, base), w in zip(places, weights, strict=True):
        place = {"handle": handle, "elements at": base[0], "scales at": base[1]}[what]
        trial.demand_bits(trial.multiply(handle, w, x), w, x, f"{what} {place}, of {len(places)} weights loaded")


def _twice(requests: Sequence[tuple[Message, bytes]]) -> list[tuple[Message, bytes]]:
    return [request for request in requests for _ in range(2)]
