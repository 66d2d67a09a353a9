"""Writes the report of a folder."""

from __future__ import annotations

from pathlib import Path

from ..errors import MXError
from ..ledger.writers import write_atomically
from .collect import collect
from .page import page


def write_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write one self-contained HTML file about a results folder or a run folder; returns its path.

    Args:
        output: default ``<folder>/report.html``.

    Raises:
        MXError: nothing there to report; plotly is not installed; the file cannot be written.
    """
    data = collect(folder)
    path = Path(folder) / "report.html" if output is None else Path(output)
    text = page(data)
    try:
        write_atomically(path, text)
    except OSError as error:
        raise MXError(f"cannot write the report {path}: {error.strerror or error}") from error
    return path
