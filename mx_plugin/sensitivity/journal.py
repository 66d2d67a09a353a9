"""The file of an unfinished profile: one line a measurement, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ProfileError
from .identity import differences

log = logging.getLogger(__name__)

VERSION = 1

Key = tuple[str, str, str, str, str]
"""(phase, role, format, what was quantised, layer)."""


class Journal:
    """Measurements that are done. With ``path=None`` they live in memory alone.

    The first line says what is profiled: model, data and settings. A last line that was not written whole is dropped.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any], *, resume: bool = False) -> None:
        """Open or begin the file.

        Raises:
            ProfileError: it is there and ``resume`` is off; it is about something else, which is named; a line in the
                middle is damaged; it cannot be written.
        """
        self.path = path
        self._done: dict[Key, dict[str, float]] = {}
        self._file: Any = None
        if path is None:
            return
        if path.exists() and not path.is_file():
            raise ProfileError(f"{path} is no ordinary file; choose another output, or remove it")
        try:
            whole = self._read(path, identity, resume) if path.exists() else 0
            # Unbuffered: what could not be written must not be tried again when the file is closed.
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self._file.truncate(whole)
            self._file.seek(whole)
            if whole == 0:
                self._append({"mx_profile": VERSION, "identity": identity})
        except OSError as error:
            raise ProfileError(f"cannot write {path}: {error.strerror or error}; choose another output") from error

    def _read(self, path: Path, identity: Mapping[str, Any], resume: bool) -> int:
        """Take up what is there; how many bytes of it are whole lines."""
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        lines = data[:whole].splitlines()
        if not lines:
            return 0  # killed before the first line was whole: nothing had been measured
        records = [_record(line, path, number) for number, line in enumerate(lines, start=1)]
        head = records[0]
        if not isinstance(head.get("identity"), dict) or head.get("mx_profile") != VERSION:
            raise ProfileError(f"{path} is no unfinished profile of this version; choose another output, or remove it")
        if not resume:
            raise ProfileError(
                f"{path} holds an unfinished profile of {len(records) - 1} measurements: continue it with resume "
                "(--resume), or remove the file to begin anew"
            )
        found = differences(head["identity"], identity)
        if found:
            raise ProfileError(f"{path} is the unfinished profile of something else: {found}; choose another output")
        if whole < len(data):
            log.warning("%s: its last line was not written whole; that measurement is made again", path)
        for number, record in enumerate(records[1:], start=2):
            try:
                self._done[tuple(record["key"])] = {k: float(v) for k, v in record["costs"].items()}
            except (KeyError, TypeError, ValueError, AttributeError):
                raise ProfileError(f"{path}, line {number}: no measurement; remove the file and begin anew") from None
        return whole

    def __contains__(self, key: object) -> bool:
        return key in self._done

    def __getitem__(self, key: Key) -> dict[str, float]:
        return self._done[key]

    def get(self, key: Key) -> dict[str, float]:
        """The costs of a measurement, empty when it is not done."""
        return self._done.get(key, {})

    def __len__(self) -> int:
        return len(self._done)

    def put(self, key: Key, costs: Mapping[str, float]) -> None:
        """Keep a measurement, on disk before this returns.

        Raises:
            ProfileError: it cannot be written.
        """
        if self._file is not None:
            try:
                self._append({"key": key, "costs": dict(costs)})
            except OSError as error:
                raise ProfileError(
                    f"cannot write {self.path}: {error.strerror or error}; make room and resume"
                ) from error
        self._done[key] = dict(costs)

    def _append(self, record: Mapping[str, Any]) -> None:
        line = memoryview(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n")
        while line:  # a disk that is nearly full takes a part, and refuses the next
            line = line[self._file.write(line) :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Close and delete the file: what it held is in the final ones."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _record(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise ProfileError(f"{path}, line {number}: damaged; remove the file and begin anew")
    return record
