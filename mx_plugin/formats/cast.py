from __future__ import annotations
from dataclasses import dataclass
@dataclass(frozen=True)
class StochasticKey:
    """placeholder while the room is being built"""
    seed: int = 0
