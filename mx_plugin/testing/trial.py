"""What a check gets: fresh plugins of one kind, closed when the check is over."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any


class Trial:
    """Makes the plugin under test; a context manager that closes everything it made.

    Args:
        make: returns a fresh instance, opened and ready.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: list[Any] = []

    def fresh(self) -> Any:
        """Another instance, with nothing in common with those before."""
        made = self._make()
        self._made.append(made)
        return made

    @property
    def plugin(self) -> Any:
        """The first instance, made when it is first asked for."""
        return self._made[0] if self._made else self.fresh()

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for made in reversed(self._made):
            with suppress(Exception):  # a close that raises is what a check of its own is about
                made.close()
        self._made.clear()
