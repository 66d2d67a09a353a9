"""Requests and replies over a serial port that may lose, damage or delay what goes through it.

Nothing is waited for without a limit: a request is answered, or an error says what was tried.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from types import TracebackType

from . import protocol
from .errors import BoardError, LinkError, LinkReopened, Refused
from .framing import DELIMITER, Deframer, encode_frame
from .port import BytePort, Port, PortLost, WriteStalled
from .protocol import Frame, Message, ProtocolError
from .window import Outcome, Request, Window

log = logging.getLogger(__name__)

BAUDRATE = 3_000_000
_LONGEST_TIMEOUT = 8
"""Timeouts double from failure to failure, up to this multiple."""
_LONGEST_PAUSE_S = 1.0
_LONGEST_READ_S = 10.0


@dataclass
class LinkStatistics:
    """What went over a link since it was opened; bytes as on the wire, frames' overhead included.

    ``repeated``: requests sent again. ``timeouts``: waits that ended without a reply. ``damaged_received``: pieces that
    were no frame. ``damaged_sent``: the same at the board's end, as far as it said so. ``ignored``: replies that came
    late or twice. ``reopened``: times that the port vanished and came back.
    """

    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    repeated: int = 0
    timeouts: int = 0
    damaged_received: int = 0
    damaged_sent: int = 0
    ignored: int = 0
    reopened: int = 0


class Link:
    """A connection to a board. Safe to use from several threads: one exchange after the other.

    Args:
        url: see :class:`~mx_fpga.port.Port`.
        baudrate: bits a second, for real serial ports.
        rtscts: hardware flow control.
        credits: requests under way at most. Default: as many as the board says it can hold; more keep a transport with
            flow control busy, and lose bytes on one without.
        timeout_s: seconds to wait for the first attempt's reply; doubles with every failure, up to 8 times.
        retries: failures in a row, without any progress, before :class:`LinkError`.
        backoff_s: pause in seconds before the second repetition; doubles with every further one, up to 1 s.
        reopen_s: how many seconds to wait for a port that vanished.

    Raises:
        BoardError: the URL is none, an option is out of range, or pyserial is missing.
        LinkError: the port cannot be opened.
    """

    def __init__(
        self,
        url: str,
        *,
        baudrate: int = BAUDRATE,
        rtscts: bool = False,
        credits: int | None = None,
        timeout_s: float = 2.0,
        retries: int = 5,
        backoff_s: float = 0.05,
        reopen_s: float = 10.0,
    ) -> None:
        if timeout_s <= 0 or retries < 0 or min(backoff_s, reopen_s) < 0 or (credits is not None and credits < 1):
            raise BoardError(
                f"timeout_s={timeout_s} must be above 0, retries={retries}, backoff_s={backoff_s} and "
                f"reopen_s={reopen_s} at least 0, credits={credits} at least 1"
            )
        self.url = url
        self.credits = 1  # until the board has said how many it can hold
        self._chosen_credits = credits
        self.opened = 0
        """How often the port was opened anew."""
        self.statistics = LinkStatistics()
        self.timeout_s, self.retries, self.backoff_s, self.reopen_s = timeout_s, retries, backoff_s, reopen_s
        self._options = {"baudrate": baudrate, "rtscts": rtscts, "write_timeout_s": timeout_s}
        self._lock = threading.RLock()
        self._deframer = Deframer()
        # A reply to a process that used this port before must not pass for ours.
        start = random.SystemRandom().randrange(1 << 16)
        self._sequences = (number & 0xFFFF for number in itertools.count(start))
        self._half_sent = True  # whoever wrote before us may have left half a frame
        self._closed = False
        self._wraps: list[Callable[[BytePort], BytePort]] = []
        self._port: BytePort | None = self._new_port()

    # ------------------------------------------------------------------ requests

    def request(self, message: Message, payload: bytes = b"") -> bytes:
        """Send one request and return its reply's payload; errors as in :meth:`exchange`."""
        return self.exchange([(message, payload)])[0]

    def exchange(self, requests: Iterable[Request], *, since: int | None = None) -> list[bytes]:
        """Send requests, as many at once as there are credits, and return the payloads of their replies, in order.

        Args:
            requests: messages with their payloads.
            since: what ``opened`` was when the board got what these requests build upon; whoever noticed that the port
                was opened anew, nothing is sent then.

        Raises:
            Refused: the board answered one of them with a status; those after it may or may not have been executed.
            LinkReopened: the port vanished and came back, now or after ``since``; what the board holds is unknown.
            LinkError: no valid reply within the retries, or the port vanished and stayed away.
        """
        with self._lock:
            port = self._port or self._open_again()
            if since is not None and since != self.opened:
                raise LinkReopened(f"{self.url} was opened anew")
            window = Window(requests, self.credits, self._sequences)
            try:
                _Exchange(self, port, window).run()
            except PortLost as error:
                self._reopen(error)
                raise LinkReopened(f"{error}; it is back") from error
            if window.refusal is not None:
                raise Refused(
                    Message(window.refusal.message),
                    window.refusal.status,
                    window.refusal.payload,
                    len(window.replies),
                    window.replies,
                )
            return window.replies

    def learn_credits(self, of_board: int) -> None:
        """The board can hold so many requests."""
        self.credits = self._chosen_credits or max(of_board, 1)

    def disturb(self, data: bytes) -> None:
        """Write bytes that are no request, to see whether a board finds its place again.

        Raises:
            LinkError: the port takes no bytes.
        """
        with self._lock:
            (self._port or self._open_again()).write(data)
            self._half_sent = True

    def through(self, wrap: Callable[[BytePort], BytePort]) -> None:
        """From now on bytes go through ``wrap(port)``, and so they do when the port had to be opened again.

        For tests: :class:`mx_fpga.testing.FaultyPort` damages what passes, in front of any board.
        """
        with self._lock:
            self._wraps.append(wrap)
            if self._port is not None:
                self._port = wrap(self._port)

    # ------------------------------------------------------------------ the port

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._closed = True
            if self._port is not None:
                self._port.close()
                self._port = None

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def describe(self) -> dict[str, object]:
        """Plain data for config.json: the URL and the statistics."""
        return {"url": self.url, **asdict(self.statistics)}

    def _new_port(self) -> BytePort:
        port: BytePort = Port(self.url, **self._options)  # type: ignore[arg-type]
        for wrap in self._wraps:
            port = wrap(port)
        return port

    def _open_again(self) -> BytePort:
        if self._closed:
            raise LinkError(f"the link to {self.url} is closed; open a new one")
        self._port = self._new_port()
        self.opened += 1
        return self._port

    def _reopen(self, why: PortLost) -> None:
        """Wait for the port to come back.

        Raises:
            LinkError: it stayed away.
        """
        log.warning("%s; waiting at most %g s for it to come back", why, self.reopen_s)
        assert self._port is not None
        self._port.close()
        self._port = None
        self._deframer.reset()
        self._half_sent = True
        until, pause = time.monotonic() + self.reopen_s, 0.05
        while True:
            try:
                self._open_again()
                break
            except PortLost as error:
                if time.monotonic() + pause > until:
                    raise LinkError(
                        f"{why}, and it did not come back within {self.reopen_s:g} s ({error}). Plug it in again and "
                        "start anew"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        self.statistics.reopened += 1


class _Exchange:
    """The loop of one exchange: send what may be sent, wait, take what came, repeat what was lost."""

    def __init__(self, link: Link, port: BytePort, window: Window) -> None:
        self.link, self.port, self.window = link, port, window
        self.failures = 0
        self.causes: Counter[str] = Counter()
        self.hold_until = 0.0
        self.progress_at = time.monotonic()

    def run(self) -> None:
        """Until every request is answered, or one is refused.

        Raises:
            LinkError, PortLost: see :meth:`Link.exchange`.
        """
        window = self.window
        while not window.done:
            self._send()
            deadline = self._deadline()
            contents = self._read(self._wake_at(deadline) - time.monotonic())
            if not self._take(contents) and window.oldest is not None and time.monotonic() >= deadline:
                self._time_out(deadline)
        if window.refusal is not None:
            self._drain()

    def _send(self) -> None:
        link, window = self.link, self.window
        while window.may_send and time.monotonic() >= self.hold_until:
            attempt = window.send(time.monotonic())
            content = protocol.encode_request(attempt.request.message, attempt.sequence, attempt.request.payload)
            data = encode_frame(content)
            if link._half_sent:
                data = DELIMITER + data
            link._half_sent = True
            link.statistics.frames_sent += 1
            link.statistics.repeated += not attempt.first
            try:
                self.port.write(data)
            except WriteStalled as error:
                window.lose_all()
                self._fail(str(error))
                return
            link._half_sent = False
            link.statistics.bytes_sent += len(data)

    def _deadline(self) -> float:
        """When the reply that is waited for longest is overdue; never, while nothing is under way."""
        oldest = self.window.oldest
        if oldest is None:
            return float("inf")
        return max(oldest.sent_at, self.progress_at) + self._timeout()

    def _timeout(self) -> float:
        return self.link.timeout_s * min(2**self.failures, _LONGEST_TIMEOUT)

    def _wake_at(self, deadline: float) -> float:
        return min(deadline, self.hold_until) if self.window.may_send else deadline

    def _read(self, timeout_s: float) -> list[Frame]:
        link = self.link
        data = self.port.read(min(timeout_s, _LONGEST_READ_S))
        link.statistics.bytes_received += len(data)
        frames = []
        for content in link._deframer.feed(data):
            try:
                frames.append(protocol.decode(content))
            except ProtocolError:
                link._deframer.bad += 1
        link.statistics.frames_received += len(frames)
        return frames

    def _take(self, frames: list[Frame]) -> bool:
        """Handle what came; True where it changed anything."""
        link, window = self.link, self.window
        outcomes: set[Outcome | Message] = set()
        for frame in frames:
            if not frame.is_reply:
                raise LinkError(
                    f"{link.url} sends back what is written to it: there is no board behind it (a loop-back, or the "
                    "board's receive and transmit wires are joined)"
                )
            if frame.message == Message.BAD_FRAME:
                link.statistics.damaged_sent += 1
                outcomes.add(Message.BAD_FRAME)
                continue
            outcome = window.receive(frame)
            link.statistics.ignored += outcome in (Outcome.IGNORED, Outcome.GAP)
            outcomes.add(outcome)
            if outcome is Outcome.ANSWERED:
                self.failures, self.hold_until, self.progress_at = 0, 0.0, time.monotonic()
        damaged = link._deframer.bad - link.statistics.damaged_received
        link.statistics.damaged_received += damaged
        if window.done:
            return True
        if Outcome.GAP in outcomes:
            self._fail("replies came, but not that one")
        elif Message.BAD_FRAME in outcomes and window.lose_oldest():
            self._fail("the board got a damaged frame")
        elif damaged and window.lose_oldest():
            self._fail("a damaged frame came back")
        return bool(outcomes - {Outcome.IGNORED}) or bool(damaged)

    def _time_out(self, deadline: float) -> None:
        self.link.statistics.timeouts += 1
        self.link._half_sent = True  # should the board wait for the rest of a frame, a delimiter ends it
        waited = self._timeout()
        self.window.lose_all()
        self._fail(f"no reply within {waited:g} s")

    def _fail(self, cause: str) -> None:
        """Another attempt failed: pause, or give up.

        Raises:
            LinkError: that was the last.
        """
        self.failures += 1
        self.causes[cause] += 1
        if self.failures > self.link.retries:
            causes = ", ".join(f"{cause} ({count} times)" for cause, count in self.causes.items())
            raise LinkError(
                f"no valid reply to {self.window.waiting_for.name} from {self.link.url} in {self.failures} attempts: "
                f"{causes}. Is it a board of this protocol, with this baud rate, and is the cable sound?"
            )
        if self.failures > 1:
            pause = min(self.link.backoff_s * 2 ** (self.failures - 2), _LONGEST_PAUSE_S)
            self.hold_until = time.monotonic() + pause

    def _drain(self) -> None:
        """After a refusal: let the requests behind it be answered, so that the credits are free again."""
        until = time.monotonic() + self.link.timeout_s
        while self.window.oldest is not None and time.monotonic() < until:
            for frame in self._read(until - time.monotonic()):
                self.window.receive(frame)
