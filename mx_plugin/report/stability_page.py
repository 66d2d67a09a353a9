"""The stability panels alone, of one run or several, as one page: ``mx-plugin dashboard RUN --html FILE``."""

from __future__ import annotations

from pathlib import Path

from ..errors import MXError
from ..ledger.writers import write_atomically
from .collect import collect_stability
from .page import stability_only


def write_stability_page(folder: str | Path, output: str | Path) -> Path:
    """Write the page and return its path.

    Raises:
        MXError: no run with a stability record there; plotly is not installed; the file cannot be written.
    """
    path = Path(output)
    text = stability_only(collect_stability(folder))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise MXError(f"cannot write {path}: {error.strerror or error}") from error
    return path
