"""Malformed rows: reported with their places, counted, and fatal unless the user says otherwise."""

from __future__ import annotations

import logging

from ..errors import StageError

logger = logging.getLogger(__name__)

FATAL, SKIP = "fatal", "skip"
_SHOWN = 10


class Malformed:
    """Collects what is wrong with the rows of one data set.

    Args:
        choice: ``fatal`` (:meth:`conclude` raises) or ``skip`` (it warns; the rows are left out).

    Raises:
        StageError: another choice.
    """

    def __init__(self, choice: str = FATAL) -> None:
        if choice not in (FATAL, SKIP):
            raise StageError(f"on_malformed={choice!r} is not a choice: {FATAL} or {SKIP}")
        self.choice = choice
        self.count = 0
        self._first: list[str] = []

    def report(self, where: str, why: str) -> None:
        """Note one malformed row."""
        self.count += 1
        if len(self._first) < _SHOWN:
            self._first.append(f"{where}: {why}")

    def conclude(self, source: str, read: int) -> None:
        """Say what was found in the ``read`` rows of ``source``, if anything was.

        Raises:
            StageError: malformed rows, and they are fatal.
        """
        if not self.count:
            return
        found = [f"{self.count} of {read} rows of {source} are malformed:", *(f"  {line}" for line in self._first)]
        if self.count > len(self._first):
            found.append(f"  ... and {self.count - len(self._first)} more")
        if self.choice == FATAL:
            raise StageError("\n".join([*found, f"Mend them, or leave them out by --on_malformed {SKIP}"]))
        logger.warning("%s", "\n".join([*found, "They are left out"]))
