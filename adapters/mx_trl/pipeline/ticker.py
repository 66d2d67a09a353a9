"""How far the running stage is: on a terminal, one line that is redrawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from mx_plugin.experiments.executor import Job

_EVERY_SECONDS = 1.0
_END = 4096


class Ticker:
    """Draws ``title: 41 s, step 12`` about once a second; nothing where ``out`` is no terminal.

    The step is that of the last line of the stage's ``logs/train.jsonl``.
    """

    def __init__(self, title: str, folder: Path, out: TextIO) -> None:
        self.title, self.out = title, out
        self.log = folder / "logs" / "train.jsonl"
        self.drawn: float | None = None

    def __call__(self, running: Sequence[tuple[Job, float]]) -> None:
        if not running or not self.out.isatty():
            return
        seconds = running[0][1]
        if self.drawn is None or seconds - self.drawn >= _EVERY_SECONDS:
            self.drawn = seconds
            step = last_step(self.log)
            reached = "" if step is None else f", step {step}"
            print(f"\r\x1b[K{self.title}: {seconds:.0f} s{reached}", end="", file=self.out, flush=True)

    def clear(self) -> None:
        """Make room for the next line."""
        if self.drawn is not None:
            print("\r\x1b[K", end="", file=self.out, flush=True)


def last_step(log: Path) -> int | None:
    """``step`` of a log's last whole line; None before the first."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _END))
            lines = file.read().split(b"\n")
        return int(json.loads(lines[-2])["step"])
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return None
