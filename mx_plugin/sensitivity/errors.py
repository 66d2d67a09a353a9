"""The error of the profiler."""

from __future__ import annotations

from ..errors import MXError


class ProfileError(MXError, ValueError):
    """A profile that cannot be made or resumed: says what does not fit, and what to change."""
