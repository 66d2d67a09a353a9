"""The error of experiments."""

from __future__ import annotations

from ..errors import MXError


class ExperimentError(MXError, ValueError):
    """An experiment that cannot start or go on; says what differs or lacks, and what to do."""
