"""What can go wrong between host and board; each error says what, where, and what to do."""

from __future__ import annotations

from mx_plugin.errors import PluginError

from .protocol import Message, Status


class BoardError(PluginError):
    """A board that cannot be reached, does not do what it was asked, or is not what it should be."""


class DoesNotFit(BoardError):
    """A weight that this board cannot take, whatever else it holds; the message says the sizes."""


class LinkError(BoardError):
    """The link to a board does not work, and what could be done about it has been done."""


class LinkReopened(LinkError):
    """The port was gone and is back: whatever the board held must be taken for lost. The request was not repeated."""


class Refused(BoardError):
    """The board answered a request with a status other than OK.

    ``index``: which request of the exchange. ``replies``: payloads of those before it, all of them answered.
    """

    def __init__(self, message: Message, status: int, payload: bytes, index: int, replies: list[bytes]) -> None:
        self.message, self.status, self.payload = message, status, payload
        self.index, self.replies = index, replies
        known = status in set(Status)
        super().__init__(f"the board refused {message.name}: {Status(status).name if known else f'status {status}'}")
