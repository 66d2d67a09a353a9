"""From a data set to examples: rows with their places, what is malformed, and the forms that stages train on."""

from __future__ import annotations

from .malformed import Malformed
from .rows import Row, numbered_rows, read_rows

__all__ = ["Malformed", "Row", "numbered_rows", "read_rows"]
