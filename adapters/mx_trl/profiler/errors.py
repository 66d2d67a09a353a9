"""The profiler's error."""

from __future__ import annotations

from mx_plugin.errors import MXError


class ProfilerError(MXError, ValueError):
    """A schedule that profiles nothing, or a library that is missing; says what to change."""
