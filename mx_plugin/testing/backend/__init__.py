"""What is demanded of a backend, level by level."""

from __future__ import annotations

from ... import plugins
from ..check import Suite
from . import declares, loads, multiplies

LEVELS = (loads.LEVEL, declares.LEVEL, multiplies.LEVEL)
BACKEND = Suite("backend", LEVELS, plugins.backends, plugins.get_backend)

__all__ = ["BACKEND", "LEVELS"]
