"""Where weights lie in a board's two memories, and which go when there is no room. Books only, no I/O.

The host owns both memories (elements and scales) and the handles; the board checks nothing but bounds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from . import layout
from .errors import DoesNotFit
from .layout import Geometry
from .protocol import Hello

MOST_GROUPS = 0xFFFF
"""LOAD_BEGIN counts groups in 16 bits."""


@dataclass(frozen=True)
class Place:
    """Where one weight lies."""

    handle: int
    element_base: int
    scale_base: int


class Space:
    """One memory of ``size`` bytes, given out in multiples of ``align``; first fit."""

    def __init__(self, size: int, align: int) -> None:
        self._align = align
        self._free = [(0, size - size % align)]  # (base, bytes), ascending, never adjacent
        self._taken: dict[int, int] = {}

    @property
    def free(self) -> int:
        """Bytes in all holes together."""
        return sum(size for _, size in self._free)

    def take(self, nbytes: int) -> int | None:
        """Base of ``nbytes`` bytes, or None where no hole is as large."""
        nbytes += -nbytes % self._align
        for place, (base, size) in enumerate(self._free):
            if size >= nbytes:
                self._free[place : place + 1] = [(base + nbytes, size - nbytes)] if size > nbytes else []
                self._taken[base] = nbytes
                return base
        return None

    def give_back(self, base: int) -> None:
        """Free what was taken at ``base``; holes that touch become one."""
        self._free.append((base, self._taken.pop(base)))
        self._free.sort()
        joined = [self._free[0]]
        for start, size in self._free[1:]:
            last, length = joined[-1]
            if last + length == start:
                joined[-1] = (last, length + size)
            else:
                joined.append((start, size))
        self._free = joined


class Memory:
    """The books of one board's memory. Keys are whatever the caller names weights by."""

    def __init__(self, hello: Hello) -> None:
        self.hello = hello
        self.geometry = Geometry.of(hello)
        self.evictions = 0
        self.clear()

    def clear(self) -> None:
        """Nothing is on the board any more."""
        self._elements = Space(self.hello.element_bytes, self.geometry.word_bytes)
        self._scales = Space(self.hello.scale_bytes, self.geometry.rows)
        self._handles = list(range(self.hello.handles))[::-1]
        self._places: OrderedDict[Hashable, Place] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def used_bytes(self) -> int:
        """Bytes of both memories that hold weights."""
        return self.hello.element_bytes + self.hello.scale_bytes - self._elements.free - self._scales.free

    def find(self, key: Hashable) -> Place | None:
        """Where ``key`` lies, or None; it counts as used now."""
        place = self._places.get(key)
        if place is not None:
            self._places.move_to_end(key)
        return place

    def place(self, key: Hashable, element_bytes: int, scale_bytes: int) -> tuple[Place, list[Hashable]]:
        """Make room for ``key``, which must not lie there yet; returns its place and the keys that had to go.

        The least recently used go first, until there is a hole of the size in both memories, and a handle.

        Raises:
            DoesNotFit: larger than the whole memory; says the sizes.
        """
        evicted: list[Hashable] = []
        while True:
            place = self._try(element_bytes, scale_bytes)
            if place is not None:
                self._places[key] = place
                return place, evicted
            if not self._places:
                raise DoesNotFit(
                    f"{element_bytes} bytes of elements and {scale_bytes} of scales do not fit board "
                    f"{self.hello.name}, which holds {self.hello.element_bytes} and {self.hello.scale_bytes}"
                )
            oldest = next(iter(self._places))
            self.drop(oldest)
            self.evictions += 1
            evicted.append(oldest)

    def drop(self, key: Hashable) -> None:
        """Forget ``key``; does nothing where it does not lie there."""
        place = self._places.pop(key, None)
        if place is not None:
            self._elements.give_back(place.element_base)
            self._scales.give_back(place.scale_base)
            self._handles.append(place.handle)

    def groups_that_fit(self, blocks: int, fmt: str) -> int:
        """How many groups of rows of so many blocks the empty memory holds."""
        elements, scales = layout.weight_sizes(self.geometry.group_rows, blocks, fmt, self.geometry)
        return min(self.hello.element_bytes // elements, self.hello.scale_bytes // scales, MOST_GROUPS)

    def _try(self, element_bytes: int, scale_bytes: int) -> Place | None:
        if not self._handles:
            return None
        element_base = self._elements.take(element_bytes)
        if element_base is None:
            return None
        scale_base = self._scales.take(scale_bytes)
        if scale_base is None:
            self._elements.give_back(element_base)
            return None
        return Place(self._handles.pop(), element_base, scale_base)
