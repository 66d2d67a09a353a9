"""Importance weights: gradient formats over rollout formats, truncated; and how many samples they leave."""

from __future__ import annotations

import logging
from typing import Any

import torch
from accelerate.utils import gather_object

log = logging.getLogger(__name__)

FEWEST = 0.1
"""Share of effective samples below which an update rests on too few of them."""


def truncated(difference: torch.Tensor, mask: torch.Tensor, level: str, cap: float) -> torch.Tensor:
    """min(exp(log p_gradient - log p_rollout), cap), without gradient (Ionides, "Truncated Importance Sampling", 2008).

    Args:
        difference: (sequences, length) nats.
        mask: (sequences, length), 1 where a token was sampled.
        level: ``token``: a weight a token, (sequences, length); ``sequence``: a weight a sequence, (sequences, 1).
    """
    difference = torch.where(mask.bool(), difference, 0.0).detach().float()
    if level == "sequence":
        difference = difference.sum(-1, keepdim=True)
    return difference.exp().clamp(max=cap)


def effective_share(weights: torch.Tensor) -> float:
    """Kish's effective sample size over the number of weights, (sum w)^2 / (n sum w^2): 1 where all are alike."""
    weights = weights.double()
    squares = float(weights.square().sum())
    return float(weights.sum()) ** 2 / (len(weights) * squares) if squares else 0.0


class WeightLog:
    """Metrics of the weights in the trainer's own log: ``mx/correction/{ess,mean,min,max,truncated}``."""

    def __init__(self, trainer: Any, level: str, cap: float) -> None:
        self.trainer, self.level, self.cap = trainer, level, cap
        self._warned = False

    def add(self, weights: torch.Tensor, mask: torch.Tensor) -> None:
        """Book the weights of one generation: (sequences, length or 1); every process calls this together."""
        own = weights.flatten() if weights.shape[1] == 1 else weights[mask.bool()]
        gathered = gather_object([own.tolist()])
        every = torch.tensor([weight for part in gathered for weight in part], dtype=torch.float64)
        found = {
            "ess": effective_share(every),
            "mean": float(every.mean()),
            "min": float(every.min()),
            "max": float(every.max()),
            # The cap itself in float32, as it stands among the weights.
            "truncated": float((every >= float(torch.tensor(self.cap))).double().mean()),
        }
        for name, value in found.items():
            self.trainer._metrics["train"][f"mx/correction/{name}"].append(value)
        share, unit = found["ess"], "sequences" if self.level == "sequence" else "tokens"
        log.info("rollout correction: effective sample size %.3f of %d %s", share, len(every), unit)
        if share < FEWEST and not self._warned:
            self._warned = True
            log.warning(
                "rollout correction: the effective sample size is %.3f of %d %s, below %g: the update rests on few "
                "samples. Take wider rollout formats, rollout_correction='token', or shorter completions",
                share, len(every), unit, FEWEST,
            )  # fmt: skip
