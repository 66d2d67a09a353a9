"""The error of checkpoints."""

from __future__ import annotations

from ..errors import StageError


class CheckpointError(StageError):
    """A checkpoint that cannot be written, found or resumed from; says which, and what to do."""
