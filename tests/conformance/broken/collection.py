"""Plugins that are broken on purpose, each with the check that must catch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Broken:
    """``caught_by``: the id of the first check that fails. ``alone``: no other check fails, so that without that one
    the plugin would pass."""

    make: Callable[[], Any]
    caught_by: str
    alone: bool

    @property
    def name(self) -> str:
        return self.make.__name__


class Collection(list[Broken]):
    """The broken plugins of one kind."""

    def caught_by(self, check: str, alone: bool = True) -> Callable[[T], T]:
        """Decorator of a class or factory."""

        def collect(make: T) -> T:
            self.append(Broken(make, check, alone))
            return make

        return collect
