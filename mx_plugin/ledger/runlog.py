"""training_log.txt: what the project's loggers and those of its plugins say during a run, as timestamped lines."""

from __future__ import annotations

import logging

from .. import plugins
from .writers import RecordFile

LOGGERS = ("mx_plugin", "mx_trl")
"""Loggers whose messages of level INFO and above belong to a run, beside those of every loaded plugin's package."""


class RunLog(logging.Handler):
    """A logging handler that appends to a :class:`RecordFile` until it is detached.

    A logger that has no level of its own is set to INFO for the time, or its messages would be dropped.
    """

    def __init__(self, file: RecordFile) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._file = file
        self._attached: dict[logging.Logger, int] = {}
        for name in sorted({*LOGGERS, *plugins.packages()}):
            logger = logging.getLogger(name)
            self._attached[logger] = logger.level
            if logger.level == logging.NOTSET:
                logger.setLevel(logging.INFO)
            logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._file.append([self.format(record) + "\n"])
        except Exception:
            self.handleError(record)

    def note(self, text: str) -> None:
        """One line that goes to this file only."""
        record = logging.LogRecord("mx_plugin.run", logging.INFO, "", 0, text, None, None)
        self.handle(record)

    def detach(self) -> None:
        """Leave the loggers as they were found. Idempotent."""
        for logger, level in self._attached.items():
            logger.removeHandler(self)
            logger.setLevel(level)
        self._attached.clear()
