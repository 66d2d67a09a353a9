"""The error of the OpenRLHF adapter."""

from __future__ import annotations

from mx_plugin.errors import MXError


class LaunchError(MXError, ValueError):
    """A command line, version or recipe that cannot run under MX; says what to change."""
