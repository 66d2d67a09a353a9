"""What one layer executed in one phase: the numbers behind hit counts, MACs and bytes."""

from __future__ import annotations

import torch


class Tally:
    """Counts since the last drain, and calls in total. Plain slots: written in the decode hot path.

    ``rows`` are rows of X (tokens). ``dgrad_rows`` and ``wgrad_rows`` are rows of dY whose product
    was executed in backward. The dtypes are those of the operands that were really multiplied.
    """

    __slots__ = (
        "calls",
        "dgrad_calls",
        "dgrad_dtype",
        "dgrad_rows",
        "drained_calls",
        "dtype",
        "rows",
        "wgrad_dtype",
        "wgrad_rows",
    )

    def __init__(self) -> None:
        self.calls = 0
        self.rows = 0
        self.dgrad_calls = 0
        self.dgrad_rows = 0
        self.wgrad_rows = 0
        self.drained_calls = 0
        self.dtype: torch.dtype | None = None
        self.dgrad_dtype: torch.dtype | None = None
        self.wgrad_dtype: torch.dtype | None = None

    @property
    def total_calls(self) -> int:
        return self.drained_calls + self.calls

    @property
    def pending(self) -> bool:
        return bool(self.calls or self.dgrad_rows or self.wgrad_rows)

    def clear(self) -> None:
        """Start counting anew; ``total_calls`` keeps what was."""
        self.drained_calls += self.calls
        self.calls = self.rows = self.dgrad_calls = self.dgrad_rows = self.wgrad_rows = 0
