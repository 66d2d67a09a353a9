"""A serial port, opened by pyserial from whatever URL it knows. The only room that imports ``serial``."""

from __future__ import annotations

import os
import select
import socket
import time
from importlib.util import find_spec
from typing import Any, Protocol

from .errors import BoardError, LinkError

INSTALL = "pip install 'mx-plugin[fpga]'"
READ_BYTES = 1 << 16
_POLL_S = 0.02


class PortLost(LinkError):
    """The port vanished: unplugged, closed by the other side, or broken."""


class WriteStalled(LinkError):
    """The other side takes no more bytes."""


class BytePort(Protocol):
    """What a link needs of a port; see ``Port`` for what the three do and raise."""

    def read(self, timeout_s: float) -> bytes: ...

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


def have_pyserial() -> bool:
    """Whether pyserial is installed; does not import it."""
    return find_spec("serial") is not None


class Port:
    """Bytes to and from a board.

    Args:
        url: a device path, a pty, ``socket://host:port``, ``rfc2217://host:port``, ``loop://``, ...: see pyserial's
            ``serial_for_url``. The two over TCP are not authenticated.
        baudrate: bits a second, for real serial ports.
        rtscts: hardware flow control.
        write_timeout_s: longest wait for the other side to take bytes, in seconds.

    Raises:
        BoardError: pyserial is not installed, or the URL is none.
        PortLost: it cannot be opened: not there, no permission, busy, nobody listens.
    """

    def __init__(self, url: str, *, baudrate: int, rtscts: bool, write_timeout_s: float) -> None:
        self.url = url
        try:
            import serial
        except ImportError as error:
            raise BoardError(f"a board at {url!r} needs pyserial ({error}): {INSTALL}") from error
        self._errors: tuple[type[Exception], ...] = (serial.SerialException, OSError)
        self._stalled: type[Exception] = serial.SerialTimeoutException
        # exclusive: a second process would take replies that are ours.
        options = {"baudrate": baudrate, "rtscts": rtscts, "timeout": _POLL_S, "exclusive": True}
        if not url.lower().startswith("rfc2217:"):  # which refuses it: its socket has a time limit of its own
            options["write_timeout"] = write_timeout_s
        try:
            self._serial: Any = serial.serial_for_url(url, **options)
        except (ValueError, TypeError) as error:
            raise BoardError(
                f"{url!r} cannot be a serial port ({error}): give a device path, socket://HOST:PORT, "
                "rfc2217://HOST:PORT or sim:, and a baud rate that there is"
            ) from error
        except self._errors as error:
            raise PortLost(f"{url} cannot be opened: {error}. {_remedy(url, error)}") from error
        self._write_timeout_s = write_timeout_s
        self._come = bytearray()  # while something was written
        self._file = _descriptor(self._serial)
        if url.lower().startswith("socket:") and self._file is not None:
            _send_at_once(self._file)

    def read(self, timeout_s: float) -> bytes:
        """What has come; waits for the first byte at most ``timeout_s`` seconds. Empty where nothing came.

        Raises:
            PortLost: the port vanished.
        """
        if self._come:
            data = bytes(self._come)
            self._come.clear()
            return data
        try:
            if self._file is not None:
                waiting = select.select([self._file], [], [], max(timeout_s, 0.0))[0]
                return self._read_file(self._file) if waiting else b""
            return self._read_serial(timeout_s)
        except self._errors as error:
            raise PortLost(f"{self.url} was lost while reading: {error}") from error

    def write(self, data: bytes) -> None:
        """Hand over all of ``data``, while taking in what comes: neither side waits for the other to read first.

        Raises:
            WriteStalled: not taken within the write timeout; part of it may have been.
            PortLost: the port vanished.
        """
        try:
            if self._file is not None:
                self._write_file(self._file, data)
            else:
                self._serial.write(data)
        except self._stalled as error:
            raise WriteStalled(f"{self.url} takes no more bytes: {error}") from error
        except self._errors as error:
            raise PortLost(f"{self.url} was lost while writing: {error}") from error

    def close(self) -> None:
        """Idempotent, and never raises: a port that vanished may not even be closed."""
        self._file = None
        try:
            self._serial.close()
        except self._errors:
            pass

    def _write_file(self, file: int, data: bytes) -> None:
        rest = memoryview(data)
        until = time.monotonic() + self._write_timeout_s
        while rest:
            waiting, taking, _ = select.select([file], [file], [], max(until - time.monotonic(), 0.0))
            if waiting:
                self._come += self._read_file(file)
            if taking:
                try:
                    rest = rest[os.write(file, rest) :]
                except BlockingIOError:
                    continue
                until = time.monotonic() + self._write_timeout_s
            elif time.monotonic() >= until:
                raise WriteStalled(f"{self.url} takes no more bytes: {len(rest)} of {len(data)} are left")

    def _read_file(self, file: int) -> bytes:
        """All that is there in one call; pyserial's own ``read`` returns early only when its timeout has passed."""
        try:
            data = os.read(file, READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            raise OSError("the other side closed it")
        return data

    def _read_serial(self, timeout_s: float) -> bytes:
        """For ports without a file descriptor: pyserial's read, one poll after the other."""
        while True:
            first: bytes = self._serial.read(1)
            if first or timeout_s <= 0:
                return first + self._serial.read(self._serial.in_waiting) if first else b""
            timeout_s -= _POLL_S


def _descriptor(port: Any) -> int | None:
    """The file descriptor to wait for, where the port has one (on POSIX: devices, ptys, sockets)."""
    if os.name != "posix":
        return None
    try:
        return int(port.fileno())
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        return None


def _send_at_once(file: int) -> None:
    """Small frames shall not wait for each other's acknowledgement."""
    shared = socket.socket(fileno=os.dup(file))
    shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    shared.close()


def _remedy(url: str, error: Exception) -> str:
    text = str(error).lower()
    if "lock" in text or "busy" in text:
        return "Another program has it open: close that one"
    if "permission" in text:
        return "Give yourself the right to it (on Debian: add yourself to the group dialout and log in again)"
    if "refused" in text or "timed out" in text or "unreachable" in text or "resolution" in text:
        return "Is the server running, and are host and port right?"
    if "no such file" in text or "could not open port" in text:
        return "Is the board plugged in? `mx-plugin doctor` lists the serial ports that are there"
    return "`mx-plugin doctor` lists the serial ports that are there"
