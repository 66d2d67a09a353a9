"""The files of a profile: ``profile/`` in the run's folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mx_plugin.errors import LedgerError
from mx_plugin.ledger.resume import keep_csv
from mx_plugin.ledger.writers import RecordFile, csv_record, write_atomically

from .rows import COLUMNS, ProfileRow, read_rows

FOLDER, TABLE, SUMMARY = "profile", "profile.csv", "profile.json"

log = logging.getLogger(__name__)


class ProfileFolder:
    """profile.csv, profile.json, traces and flame graph of one run.

    Args:
        run_dir: the run's folder.
        resume_step: 0 starts a profile, and an earlier one is renamed ``profile.1``, ``.2``, ...; a number goes on with
            the files that are there, without rows of later steps.

    ``rows`` and ``windows`` are what is there already. A full disk does not stop the run, see
    :class:`~mx_plugin.ledger.writers.RecordFile`.

    Raises:
        LedgerError: the folder cannot be made or written.
    """

    def __init__(self, run_dir: Path, resume_step: int = 0) -> None:
        self.path = run_dir / FOLDER
        self.rows: list[ProfileRow] = []
        self.windows: list[dict[str, Any]] = []
        self.troubles: list[str] = []
        """What could not be written, and why."""
        try:
            if not resume_step:
                self._set_aside()
            self.path.mkdir(parents=True, exist_ok=True)
            keep_csv(self.path / TABLE, COLUMNS, resume_step)
            self._file = RecordFile(self.path / TABLE, self._failed)
            if (self.path / TABLE).stat().st_size == 0:
                self._file.append([csv_record(COLUMNS)])
            self.rows = list(read_rows(self.path / TABLE))
            self.windows = self._earlier_windows(resume_step)
        except (OSError, KeyError, ValueError) as error:
            raise LedgerError(
                f"cannot write the profile in {self.path}: {error}; free space or permissions there, or move it away"
            ) from error

    def _set_aside(self) -> None:
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        number = 1
        while (target := self.path.with_name(f"{FOLDER}.{number}")).exists():
            number += 1
        self.path.rename(target)
        log.info("%s already held a profile; it was kept as %s", self.path, target.name)

    def _earlier_windows(self, resume_step: int) -> list[dict[str, Any]]:
        try:
            found = json.loads((self.path / SUMMARY).read_text(encoding="utf-8"))["windows"]
        except (OSError, ValueError, KeyError):  # none yet, or one that a crash left: its traces stay, unlisted
            return []
        return [window for window in found if window["last_step"] <= resume_step]

    def append(self, rows: Iterable[ProfileRow]) -> None:
        """Add rows to profile.csv, in one write."""
        rows = list(rows)
        self.rows += rows
        self._file.append([csv_record(row.texts()) for row in rows])

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace profile.json; a failure is logged and noted."""
        try:
            write_atomically(self.path / SUMMARY, json.dumps(summary, indent=1) + "\n")
        except OSError as error:
            self._failed(self.path / SUMMARY, error)

    def failed(self, what: str, error: BaseException) -> None:
        """Log and note that ``what`` was not written; training goes on."""
        self.troubles.append(f"{what}: {type(error).__name__}: {error}")
        log.warning("profiler: %s could not be written: %s: %s", what, type(error).__name__, error)

    def _failed(self, path: Path, error: OSError) -> None:
        if not any(trouble.startswith(path.name) for trouble in self.troubles):
            self.failed(path.name, error)

    def close(self) -> None:
        """Close profile.csv. Idempotent."""
        try:
            waiting = self._file.close()
        except OSError as error:
            self._failed(self.path / TABLE, error)
            return
        if waiting:
            log.warning("profiler: %d rows of %s could not be written", waiting, self.path / TABLE)
