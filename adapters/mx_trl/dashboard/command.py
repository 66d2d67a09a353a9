"""``mx-plugin dashboard RUN``: serve, write as one page, or let a paused run go on."""

from __future__ import annotations

import argparse
from pathlib import Path

from mx_plugin.errors import MXError

from .files import resume


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; returns when interrupted, if it serves.

    Raises:
        MXError: no such folder, nothing paused in it, Trackio or plotly missing, the port taken.
    """
    folder = Path(arguments.folder)
    if not folder.is_dir():
        raise MXError(f"{folder} is not a folder; give the folder of a run, or one that holds several")
    if arguments.resume:
        return _resume(folder)
    if arguments.html is not None:
        from mx_plugin.report.stability_page import write_stability_page

        print(write_stability_page(folder, arguments.html))
        return 0
    if not arguments.poll > 0:
        raise MXError(f"--poll {arguments.poll:g}: give more than 0 seconds")
    from .serve import serve

    serve(folder, arguments.port, arguments.poll)
    return 0


def _resume(folder: Path) -> int:
    found = resume(folder)
    if not found:
        raise MXError(f"nothing in {folder} is paused (no paused.json)")
    for one in found:
        print(f"{one} goes on")
    return 0
