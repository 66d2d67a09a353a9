"""From OpenRLHF's log keys to the columns of metrics.csv."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CORRECTION_COLUMNS = ("ppo_kl", "vllm_kl", "is_filter_ratio", "loss")
"""Further columns: mean log-ratio of old to new policy; of rollout to training (both in nats per token); the share of
tokens (or sequences) that the importance correction clamped or dropped; the policy's or trainer's loss."""

_COLUMNS: dict[str, tuple[str, ...]] = {
    "reward": ("rollout/reward_mean", "reward"),
    "kl": ("kl",),
    "entropy": ("entropy_loss",),
    "clip_fraction": ("ppo_clip_ratio",),
    "ppo_kl": ("ppo_kl",),
    "vllm_kl": ("vllm_kl",),
    "is_filter_ratio": ("is_filter_ratio",),
    "loss": ("policy_loss", "loss_mean", "loss"),
}
"""First key present wins."""


def standard_metrics(status: Mapping[str, Any]) -> dict[str, float]:
    """The project's metrics found in a step's status; what is not there stays absent."""
    found: dict[str, float] = {}
    for column, keys in _COLUMNS.items():
        for key in keys:
            value = status.get(key)
            if isinstance(value, int | float):
                found[column] = float(value)
                break
    return found
