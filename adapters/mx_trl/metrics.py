"""From a trainer's own log keys to the columns of metrics.csv."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COLUMNS: dict[str, tuple[str, ...]] = {
    "reward": ("objective/scores", "reward"),
    "kl": ("objective/kl", "kl"),
    "entropy": ("policy/entropy_avg", "entropy", "objective/entropy"),
    "ratio": ("val/ratio", "sampling/importance_sampling_ratio/mean"),
    "clip_fraction": ("policy/clipfrac_avg", "clip_ratio/region_mean", "clip_ratio"),
}
"""First key present wins: PPO's names, then those of GRPO, RLOO and OnlineDPO."""


def standard_metrics(logs: Mapping[str, Any]) -> dict[str, float]:
    """The project's metrics found in a trainer's log; what is not there stays absent."""
    found: dict[str, float] = {}
    for column, keys in _COLUMNS.items():
        for key in keys:
            value = logs.get(key)
            if isinstance(value, int | float):
                found[column] = float(value)
                break
    return found
