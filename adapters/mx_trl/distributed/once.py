"""A file that one rank makes and all use: a sensitivity matrix, say, which takes minutes to compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mx_plugin.atomic import write_atomically
from mx_plugin.errors import MXError

from .ranks import Ranks, RanksError


def computed_once(ranks: Ranks, path: str | Path, compute: Callable[[Path], object]) -> Path:
    """``path``, made by ``compute(path)`` on the main rank unless it exists there, with the same text on every rank.

    A rank that does not see the main one's file, because it has a disk of its own, writes itself one there.

    Raises:
        RanksError: on all ranks, when it could not be computed or read on the main one.
    """
    path = Path(path)
    told: tuple[str, str] = ("", "")
    if ranks.main:
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                compute(path)
            told = (path.read_text(encoding="utf-8"), "")
        except (OSError, MXError) as error:
            told = ("", f"{type(error).__name__}: {error}")
    text, error_there = ranks.agreed(f"computing {path.name}", told)
    if error_there:
        raise RanksError(f"the main rank could not make {path}: {error_there}")
    if not _holds(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    return path


def read_on_main(ranks: Ranks, path: str) -> str:
    """The text of the main rank's file.

    Raises:
        RanksError: on all ranks, when the main one cannot read it.
    """
    told: tuple[str, str] = ("", "")
    if ranks.main:
        try:
            told = (Path(path).read_text(encoding="utf-8"), "")
        except (OSError, ValueError) as error:
            told = ("", f"{type(error).__name__}: {error}")
    text, error_there = ranks.agreed(f"reading {Path(path).name}", told)
    if error_there:
        raise RanksError(f"the main rank cannot read {path}: {error_there}")
    return str(text)


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False
