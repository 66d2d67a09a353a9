"""Packed weights must never be stale: who may have changed a weight, and how we notice.

Three nets: the optimiser's post-step hook, hooks on ``load_state_dict`` (and whatever an adapter
adds), and - because weights can be written through ``.data`` without either - a sampled fingerprint
of every packed weight at each phase entry. ``weight._version`` would not do: fused optimisers do not
bump it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

_SAMPLES = 256
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@lru_cache(maxsize=512)
def _positions(numel: int, device: torch.device) -> torch.Tensor:
    count = min(numel, _SAMPLES)
    return torch.linspace(0, max(numel - 1, 0), count, dtype=torch.float64).round().long().to(device)


class Fingerprint:
    """Bits of up to 256 evenly spaced elements of a weight, with its address and shape.

    ``moves``: a sharded weight is gathered anew for each forward, perhaps elsewhere, so its address tells nothing.
    """

    __slots__ = ("address", "bits", "shape")

    def __init__(self, weight: torch.Tensor, moves: bool = False) -> None:
        self.address = None if moves else weight.data_ptr()
        self.shape = weight.shape
        self.bits = _sampled_bits(weight)

    def matches(self, weight: torch.Tensor) -> bool:
        """True when none of the sampled bits, nor address and shape, has changed."""
        return (
            self.address in (None, weight.data_ptr())
            and self.shape == weight.shape
            and torch.equal(self.bits, _sampled_bits(weight))
        )


def _sampled_bits(weight: torch.Tensor) -> torch.Tensor:
    flat = weight.detach()
    # A transposed view samples its storage order: any fixed order will do, a copy would not.
    flat = flat.reshape(-1) if flat.is_contiguous() else flat.t().reshape(-1)
    return flat[_positions(flat.numel(), flat.device)].view(_BITS[flat.element_size()])


class _Announcement:
    """A module hook that tells us of a load; copies and pickles of the module carry a silent one."""

    def __init__(self, tell: Callable[[], None] | None = None) -> None:
        self.tell = tell

    def __call__(self, *_: Any) -> None:
        if self.tell is not None:
            self.tell()

    def __reduce__(self) -> tuple[type[_Announcement], tuple[()]]:
        return _Announcement, ()


class WriteWatch:
    """Tells whenever torch lets us see that weights were written: ``trained`` and ``loaded``."""

    def __init__(self, roots: Iterable[nn.Module], trained: Callable[[], None], loaded: Callable[[], None]) -> None:
        self._removables: list[Any] = [register_optimizer_step_post_hook(lambda *_: trained())]
        announcement = _Announcement(loaded)
        # On every module that holds weights: a part of the model (PEFT's base, say) may be loaded on its own.
        for module in {id(m): m for root in roots for m in root.modules() if m._parameters}.values():
            removable = module.register_load_state_dict_post_hook(announcement)  # type: ignore[no-untyped-call]
            self._removables.append(removable)

    def close(self) -> None:
        """Remove the hooks; idempotent."""
        for removable in self._removables:
            removable.remove()
        self._removables.clear()
