"""A process that runs profiles in forked children, which SIGKILL ends where they are told.

One line of JSON a child, ``{"folder": ..., "event": ..., "count": n}``; answers are lines: its pid, then how it ended.
Forking spares each child the import of torch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.sensitivity.resuming import run


def dying(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """``function``, but instead of its call number ``count`` the process is killed."""
    calls = 0

    def called(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return called


class Steps:
    """Progress of a profile; ``step`` may be what kills it."""

    def begin(self, total: int) -> None: ...

    def step(self, what: str) -> None: ...

    def end(self) -> None: ...


def child(job: dict[str, Any]) -> None:
    steps = Steps()
    places = {"step": steps, "fsync": os, "replace": os, "unlink": Path}
    if job["event"]:
        place = places[job["event"]]
        setattr(place, job["event"], dying(getattr(place, job["event"]), job["count"]))
    run(Path(job["folder"]), progress=steps)


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                child(json.loads(line))
            except BaseException as error:
                print(error, file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
