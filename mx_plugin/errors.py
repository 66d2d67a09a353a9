"""The errors that users meet: each says what was wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MXError(Exception):
    """Base of every error that mx-plugin raises on purpose."""


class FormatError(MXError, ValueError):
    """A format, pair, rounding mode or scale rule that is not known or not usable here."""


class PolicyError(MXError, ValueError):
    """A precision policy that cannot be read, or that does not fit the model."""


class MatrixError(MXError, ValueError):
    """A sensitivity matrix that cannot be read; names the file and the line."""


class PluginError(MXError, RuntimeError):
    """A plugin that could not be loaded, found or used."""


class AdoptionError(MXError, RuntimeError):
    """A model or trainer whose layers cannot be adopted as asked."""


class UnhitLayersError(MXError, RuntimeError):
    """Adopted layers that never executed in a phase that ran: their format was silently skipped."""


class ReleasedWeightError(MXError, RuntimeError):
    """Writing to a weight that was released (``release_frozen=True``), or executing it in another format."""


class LedgerError(MXError, OSError):
    """A run folder that cannot be created or written; what was written before stays readable."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return ``did you mean 'X'? Valid: A, B, C`` for a word that is not in ``valid``."""
    words = [str(v) for v in valid]
    folded = {v.casefold(): v for v in reversed(words)}
    close = get_close_matches(str(word).casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    return f"{hint}Valid: {', '.join(words)}"
