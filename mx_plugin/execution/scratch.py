"""Memory for the cast operands of a training product: written, multiplied, and written again.

A tensor of many megabytes that is made anew for every cast costs more in page faults than the cast itself. No
operand outlives its product, so a product borrows a :class:`Workspace` and gives it back: products that run at the
same time - on autograd's threads, in another trainer, or one inside another - never share one.
"""

from __future__ import annotations

from weakref import WeakSet

import torch

FIRST, SECOND, THIRD = range(3)
"""Slots of a workspace: a product's two operands, and what one of them is made from."""

_VIEWS = 64
"""Views kept for each slot: batches of many lengths must not pile them up."""


class _Slot:
    """Flat memory that grows to the largest tensor that was asked of it."""

    __slots__ = ("memory", "views")

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8)
        self.views: dict[tuple[torch.Size, torch.dtype, bool], torch.Tensor] = {}

    def view(self, key: tuple[torch.Size, torch.dtype, bool]) -> torch.Tensor:
        shape, dtype, transposed = key
        nbytes = shape.numel() * dtype.itemsize
        # Also a caller in inference mode must leave ordinary tensors behind: training writes them later.
        with torch.inference_mode(False), torch.no_grad():
            if nbytes > self.memory.numel():
                self.views.clear()
                self.memory = torch.empty(0, dtype=torch.uint8)  # not both at once
                self.memory = torch.empty(nbytes, dtype=torch.uint8)
            elif len(self.views) >= _VIEWS:
                self.views.clear()
            values = self.memory[:nbytes].view(dtype)
            view = values.view(shape[1], shape[0]).t() if transposed else values.view(shape)
        self.views[key] = view
        return view


class Workspace:
    """The buffers of one product in flight; what is in them is good until the workspace is given back."""

    __slots__ = ("__weakref__", "_slots")

    def __init__(self) -> None:
        self._slots = (_Slot(), _Slot(), _Slot())

    def tensor(self, slot: int, shape: torch.Size, dtype: torch.dtype, transposed: bool = False) -> torch.Tensor:
        """Uninitialised CPU memory of ``shape``; ``transposed``: (m, n) stored as (n, m). The slot's last is lost."""
        key = (shape, dtype, transposed)
        place = self._slots[slot]
        view = place.views.get(key)
        return place.view(key) if view is None else view

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(slot.memory.numel() for slot in self._slots)


class Scratch:
    """The workspaces of one engine: as many as products were ever in flight at once.

    Each holds at most the largest layer's operands: for a weight of (out, in) and T tokens, in bytes of the dtype
    that is multiplied, max(out in, T in) + T max(in, out), and T max(in, out) again where an operand is prepared
    before its cast.
    """

    def __init__(self) -> None:
        self._free: list[Workspace] = []
        self._made: WeakSet[Workspace] = WeakSet()
        self._closed = False

    def borrow(self) -> Workspace:
        """A workspace that nobody else has."""
        try:
            return self._free.pop()
        except IndexError:
            made = Workspace()
            self._made.add(made)
            return made

    def give_back(self, workspace: Workspace) -> None:
        """The product is done: the next one may overwrite its operands."""
        if not self._closed:
            self._free.append(workspace)

    def open(self) -> None:
        """Keep workspaces from now on."""
        self._closed = False

    def close(self) -> None:
        """Free all memory; a backward that still comes borrows memory of its own. Idempotent."""
        self._closed = True
        self._free.clear()

    @property
    def nbytes(self) -> int:
        """Bytes held now, lent workspaces included."""
        return sum(workspace.nbytes for workspace in list(self._made))
