"""Which requests of an exchange are under way, which are answered, and which must be sent again. No I/O.

The board answers in the order of arrival, so a reply also tells what was lost before it. After a loss everything from
the oldest unanswered request on is sent again ("go back N"): requests may be repeated, and their order matters. Each
attempt has a sequence number of its own, so that a late reply is never taken for the answer to something else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from .protocol import Frame, Message

Request = tuple[Message, bytes]
"""(message, payload)."""


class Outcome(Enum):
    """What a reply meant."""

    ANSWERED = auto()
    """The oldest unanswered request is answered."""
    REFUSED = auto()
    """The same, with a status other than OK."""
    GAP = auto()
    """A younger request was answered: the oldest one, or its reply, is lost."""
    IGNORED = auto()
    """Late, repeated or not ours."""


@dataclass
class _Pending:
    index: int
    message: Message
    payload: bytes


@dataclass
class Attempt:
    """A request on the wire. ``first``: it was not sent before."""

    sequence: int
    request: _Pending
    sent_at: float
    first: bool


class Window:
    """The requests of one exchange, at most ``credits`` of them on the wire.

    Args:
        requests: taken one by one, as there is room.
        credits: how many the board can hold.
        sequences: numbers for attempts, never one that was used lately.
    """

    def __init__(self, requests: Iterable[Request], credits: int, sequences: Iterator[int]) -> None:
        self.replies: list[bytes] = []
        self.refusal: Frame | None = None
        self._source = iter(requests)
        self._credits = credits
        self._sequences = sequences
        self._unanswered: deque[_Pending] = deque()
        self._next = 0  # place in _unanswered of the next to be sent
        self._taken = 0
        self._flying: deque[Attempt] = deque()
        self._given_up: dict[int, _Pending] = {}
        self._fill()

    @property
    def done(self) -> bool:
        """Every request is answered, or one was refused."""
        return self.refusal is not None or not self._unanswered

    @property
    def oldest(self) -> Attempt | None:
        """The attempt that waits longest."""
        return self._flying[0] if self._flying else None

    @property
    def waiting_for(self) -> Message:
        """The message of the oldest unanswered request; only while not ``done``."""
        return self._unanswered[0].message

    @property
    def may_send(self) -> bool:
        """There is a request to send, and a credit for it."""
        return self._next < len(self._unanswered) and len(self._flying) < self._credits

    def send(self, now: float) -> Attempt:
        """The next attempt, which the caller writes to the wire now. Only while ``may_send``."""
        request = self._unanswered[self._next]
        known = {attempt.request.index for attempt in self._flying} | {r.index for r in self._given_up.values()}
        attempt = Attempt(next(self._sequences), request, now, request.index not in known)
        self._flying.append(attempt)
        self._next += 1
        self._fill()
        return attempt

    def receive(self, frame: Frame) -> Outcome:
        """Take a reply."""
        outcome = self._outcome(frame)
        if self._go_back_if_lost() and outcome is Outcome.IGNORED:
            return Outcome.GAP
        return outcome

    def _outcome(self, frame: Frame) -> Outcome:
        request = self._take(frame.sequence)
        if request is None or request.message != frame.message or self.done:
            return Outcome.IGNORED
        if request is not self._unanswered[0]:
            return Outcome.IGNORED
        if frame.status:
            self.refusal = frame
            return Outcome.REFUSED
        self._unanswered.popleft()
        self._next = max(self._next - 1, 0)
        self._given_up = {s: r for s, r in self._given_up.items() if r.index > request.index}
        self.replies.append(frame.payload)
        self._fill()
        return Outcome.ANSWERED

    def lose_oldest(self) -> bool:
        """The attempt that waits longest did not get through. False where nothing was under way."""
        if not self._flying:
            return False
        self._give_up(self._flying.popleft())
        self._go_back_if_lost()
        return True

    def lose_all(self) -> None:
        """Nothing that is under way is waited for any longer."""
        while self._flying:
            self._give_up(self._flying.popleft())
        self._next = 0

    def _fill(self) -> None:
        """Have one request more at hand than was sent, so that ``done`` and ``may_send`` need not ask the source."""
        while self._next >= len(self._unanswered):
            request = next(self._source, None)
            if request is None:
                return
            self._unanswered.append(_Pending(self._taken, *request))
            self._taken += 1

    def _take(self, sequence: int) -> _Pending | None:
        """The request of that attempt; attempts before it will not be answered any more."""
        place = next((i for i, attempt in enumerate(self._flying) if attempt.sequence == sequence), None)
        if place is None:
            return self._given_up.get(sequence)
        for _ in range(place):
            self._give_up(self._flying.popleft())
        return self._flying.popleft().request

    def _give_up(self, attempt: Attempt) -> None:
        self._given_up[attempt.sequence] = attempt.request

    def _go_back_if_lost(self) -> bool:
        """Send from the oldest unanswered request on, unless it is under way (again, or still)."""
        if not self._unanswered or self._next == 0:
            return False
        if any(attempt.request is self._unanswered[0] for attempt in self._flying):
            return False
        self._next = 0
        return True
