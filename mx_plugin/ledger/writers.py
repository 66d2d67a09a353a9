"""Append-only record files that survive a full disk: what is written stays readable, the rest waits."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..atomic import write_atomically as write_atomically

Write = Callable[[int, bytes], int]
"""``os.write``, or something that fails like it."""

os_write: Write = os.write


class RecordFile:
    """A file of text records, each written whole or not at all.

    When writing fails, a partial record is truncated away and it and all later ones are kept in memory,
    to be tried again, in order, at the next ``append`` or ``flush``. Thread-safe.

    Args:
        path: created if absent, else appended to.
        on_failure: called with (path, error) at each failure.
        write: the system call.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(
        self, path: Path, on_failure: Callable[[Path, OSError], None] | None = None, write: Write = os_write
    ) -> None:
        self.path = path
        self.error: OSError | None = None
        self._on_failure = on_failure
        self._write = write
        self._pending: list[bytes] = []
        self._lock = threading.RLock()
        self._fd: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    @property
    def pending(self) -> int:
        """Records that are not in the file yet."""
        return len(self._pending)

    @property
    def closed(self) -> bool:
        return self._fd is None

    def append(self, records: Sequence[str]) -> bool:
        """Write ``records`` (each with its line end) after those still waiting; True if all are written."""
        with self._lock:
            self._pending += [record.encode("utf-8") for record in records]
        return self.flush()

    def flush(self) -> bool:
        """Try to write what is waiting; True if nothing is left."""
        failure: OSError | None = None
        with self._lock:
            if self._pending and self._fd is not None:
                failure = self._drain(self._fd)
                self.error = failure
            left = bool(self._pending)
        if failure is not None and self._on_failure is not None:
            self._on_failure(self.path, failure)
        return not left

    def close(self) -> int:
        """Try once more, then close; returns how many records could not be written. Idempotent.

        Raises:
            OSError: the system reports at the close that earlier writes failed (a network disk).
        """
        self.flush()
        with self._lock:
            fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
        return self.pending

    def discard(self) -> None:
        """Close without another try; what is waiting is forgotten."""
        with self._lock:
            self._pending.clear()
        self.close()

    def _drain(self, fd: int) -> OSError | None:
        """Write as much as goes; on failure cut the file back to its last whole record."""
        data = b"".join(self._pending)
        done = 0
        failure: OSError | None = None
        while done < len(data):
            try:
                done += self._write(fd, data[done:])
            except OSError as error:
                failure = error
                break
        whole = 0
        while self._pending and whole + len(self._pending[0]) <= done:
            whole += len(self._pending.pop(0))
        if done > whole:
            os.ftruncate(fd, os.fstat(fd).st_size - (done - whole))
        return failure


def csv_record(values: Sequence[str]) -> str:
    """One CSV line, quoted where needed, with its line end; line breaks inside values become spaces."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([" ".join(value.splitlines()) for value in values])
    return buffer.getvalue()


def json_record(record: Mapping[str, Any]) -> str:
    """One JSON object on one line. JSON has no NaN and no infinities: both are written as null."""
    return json.dumps({str(k): _plain(v) for k, v in record.items()}, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """JSON data for scalars of any library and containers of them; other things by their ``str``."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    item = getattr(value, "item", None)
    if callable(item):
        try:
            return _plain(item())
        except (RuntimeError, TypeError, ValueError):
            pass
    return str(value)
