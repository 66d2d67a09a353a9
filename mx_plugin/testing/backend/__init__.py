"""What is demanded of a backend, level by level."""

from __future__ import annotations

from ... import plugins
from ..check import Suite
from . import casts, counts, declares, handles, loads, multiplies, repeats, training_casts, trains

LEVELS = (
    loads.LEVEL,
    declares.LEVEL,
    casts.LEVEL,
    training_casts.LEVEL,
    multiplies.LEVEL,
    repeats.LEVEL,
    handles.LEVEL,
    counts.LEVEL,
    trains.LEVEL,
)
BACKEND = Suite("backend", LEVELS, plugins.backends, plugins.get_backend)

__all__ = ["BACKEND", "LEVELS"]
