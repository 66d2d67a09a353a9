"""The error of the TRL adapter's stages, data and models."""

from __future__ import annotations

from mx_plugin.errors import MXError


class StageError(MXError, ValueError):
    """A stage that cannot start: its model, reward, dataset or trainer does not fit; says what to change."""
