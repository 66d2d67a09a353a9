"""From a trainer's own log keys to the names of stability.jsonl. Imports no framework."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..metrics import standard_metrics

_FURTHER: dict[str, tuple[str, ...]] = {
    "reward_std": ("reward_std",),
    "reward_groups_alike": ("frac_reward_zero_std",),
    "length": ("completions/mean_length",),
    "explained_variance": ("mx/ppo/explained_variance",),
    "mismatch": ("mx/mismatch/mean_abs_logratio", "sampling/sampling_logp_difference/mean"),
    "mismatch_outside_clip": ("mx/mismatch/frac_outside_clip",),
    "mismatch_kl": ("mx/mismatch/kl",),
    "kl_unquantised": ("mx/kl_unquantised",),
    "grad_norm/all": ("grad_norm",),
    "loss": ("loss", "loss/policy_avg"),
    "value_loss": ("loss/value_avg",),
    "learning_rate": ("learning_rate", "lr"),
}
_PER_TOKEN = ("kl",)
"""Of GRPO and RLOO; PPO's and OnlineDPO's ``objective/kl`` are sums over a sequence."""


def columns_of(logs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one log entry by their names in stability.jsonl; what is not there stays absent.

    ``kl`` is as the trainer reports it, ``kl_per_token`` in nats a token where that is known.
    """
    found = standard_metrics(logs)
    for column, keys in _FURTHER.items():
        value = next((logs[key] for key in keys if is_number(logs.get(key))), None)
        if value is not None:
            found[column] = float(value)
    per_token = next((logs[key] for key in _PER_TOKEN if is_number(logs.get(key))), None)
    if per_token is not None:
        found["kl_per_token"] = float(per_token)
    elif found.get("length") and "kl" in found:
        found["kl_per_token"] = found["kl"] / found["length"]
    return found


def is_number(value: Any) -> bool:
    """Whether it is a number at all; NaN is one."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def not_finite(logs: Mapping[str, Any]) -> list[str]:
    """Keys whose number is NaN or infinite."""
    return sorted(key for key, value in logs.items() if isinstance(value, float) and not math.isfinite(value))
