"""What a run's process does to never outlive its experiment."""

from __future__ import annotations

import os
import sys
import threading

PARENT_GONE = 75
"""Exit status of a run whose experiment ended first (``EX_TEMPFAIL`` of sysexits.h: try again)."""


def end_with_parent() -> None:
    """End this process at once when its standard input, a pipe from the experiment, is closed at the other end.

    Nothing is lost by it: an interrupted run is made again from its beginning.
    """
    if not sys.stdin.isatty():
        threading.Thread(target=_watch, name="end-with-parent", daemon=True).start()


def _watch() -> None:
    try:
        while os.read(0, 1024):
            pass
    except OSError:
        pass
    os._exit(PARENT_GONE)
