"""One number out of a device's HTTP JSON: with a time-out, a size cap, and no redirects."""

from __future__ import annotations

import http.client
import json
import math
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


class UnreadablePlug(Exception):
    """The plug gave no number; the message says why, and names no secret of its URL."""


@dataclass(frozen=True)
class JsonField:
    """``field`` (names and list indices, separated by dots) of what a GET of ``url`` answers.

    A plug is a stranger on the network: the answer is read up to ``max_bytes`` and ``timeout_s`` after the request
    began, and is never followed elsewhere.

    Raises:
        ValueError: a URL that is not http or https, has no host, or carries a user name.
    """

    url: str
    field: str
    timeout_s: float = 2.0
    max_bytes: int = 65536

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url {self.url!r} is not http://HOST/... or https://HOST/...")
        if parts.username is not None:
            raise ValueError(
                f"the url of {parts.hostname!r} carries a user name, which would land in files: leave it out"
            )

    @property
    def place(self) -> str:
        """The URL without its query, where a plug's password may stand."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"

    def read(self) -> float:
        """The number now.

        Raises:
            UnreadablePlug: no answer in time, not status 200, too long, not JSON, no such field, or not a number.
        """
        try:
            answer = json.loads(self._get())
        except (OSError, http.client.HTTPException) as error:
            raise UnreadablePlug(f"{self.place}: {type(error).__name__}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise UnreadablePlug(f"{self.place} did not answer JSON: {error}") from error
        value = self._pick(answer)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UnreadablePlug(f"{self.place}: {self.field} is {value!r:.80}, not a number")
        return float(value)

    def _get(self) -> bytes:
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        deadline = time.monotonic() + self.timeout_s
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout_s)
        try:
            connection.request(
                "GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers={"Connection": "close"}
            )
            answer = connection.getresponse()
            if answer.status != http.client.OK:  # http.client follows no redirect, and neither do we
                where = f" to {answer.getheader('Location')!r:.80}, not followed" if 300 <= answer.status < 400 else ""
                raise UnreadablePlug(f"{self.place} answered {answer.status} {answer.reason}{where}")
            return self._body(answer, deadline)
        finally:
            connection.close()

    def _body(self, answer: http.client.HTTPResponse, deadline: float) -> bytes:
        body = b""
        while chunk := answer.read1(4096):  # what is there: a plug that drips must not hold us beyond the deadline
            body += chunk
            if len(body) > self.max_bytes:
                raise UnreadablePlug(f"{self.place} answers more than {self.max_bytes} bytes: not the plug's JSON?")
            if time.monotonic() > deadline:
                raise UnreadablePlug(f"{self.place} did not finish its answer in {self.timeout_s:g} s")
        return body

    def _pick(self, value: object) -> object:
        walked: list[str] = []
        for part in self.field.split("."):
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                there = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
                raise UnreadablePlug(f"{self.place} has no {'.'.join([*walked, part])!r}; there is {there:.200}")
            walked.append(part)
        return value
