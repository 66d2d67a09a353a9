"""The memory that everything is measured against: how fast it is read, and how much of it the caches hide."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

LEAST, MOST = 64 << 20, 512 << 20

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def cache_bytes() -> int:
    """Bytes of the largest cache that the first processor uses; 0 where the system does not say (it is Linux's)."""
    sizes = [_bytes(path.read_text(encoding="ascii")) for path in _CACHES.glob("index*/size")]
    return max(sizes, default=0)


def _bytes(text: str) -> int:
    text = text.strip()
    unit = _UNITS.get(text[-1:], 1)
    digits = text.rstrip("KMG")
    return int(digits) * unit if digits.isdigit() else 0


def rotated_bytes() -> int:
    """Twice the largest cache, between 64 and 512 MiB: a decode step reads a whole model, which no cache holds."""
    return min(max(LEAST, 2 * cache_bytes()), MOST)


def bandwidth(size: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes a second of the best of ten streaming reads (a sum over int64) of ``size`` bytes, with torch's threads."""
    data = torch.ones(size // 8, dtype=torch.int64)
    best = float("inf")
    for _ in range(10):
        start = clock()
        data.sum()
        best = min(best, clock() - start)
    return data.nbytes / best
