"""A linear preference head: trained on differences of features, in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch.nn.functional import logsigmoid

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
_STEPS = 60


@dataclass(frozen=True)
class Head:
    """score = weight . (features - mean) / scale; all three (features,) float32."""

    weight: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(texts, features) -> (texts,)."""
        return ((features - self.mean) / self.scale) @ self.weight

    def tensors(self) -> dict[str, torch.Tensor]:
        """For a safetensors file."""
        return {"weight": self.weight, "mean": self.mean, "scale": self.scale}

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> Head:
        """What ``tensors`` gave."""
        return cls(tensors["weight"], tensors["mean"], tensors["scale"])


def fit_head(
    chosen: torch.Tensor, rejected: torch.Tensor, choose: torch.Tensor, choose_rejected: torch.Tensor, *, seed: int
) -> tuple[Head, float]:
    """The head with the penalty that does best on the second pair of tables, and that penalty.

    All tables are (pairs, features). The loss is -log sigmoid(score(chosen) - score(rejected)) plus
    ``penalty`` |weight|^2 / 2, minimised by L-BFGS from a random start.
    """
    both = torch.cat([chosen, rejected])
    mean, scale = both.mean(0), both.std(0).clamp(min=1e-6)
    difference = (chosen - rejected) / scale
    start = torch.randn(difference.shape[1], generator=torch.Generator().manual_seed(seed)) / difference.shape[1] ** 0.5
    best: tuple[float, Head, float] | None = None
    for penalty in PENALTIES:
        head = Head(_minimised(difference, start, penalty), mean, scale)
        loss = float(-logsigmoid(head(choose) - head(choose_rejected)).mean())
        if best is None or loss < best[0]:
            best = (loss, head, penalty)
    assert best is not None
    return best[1], best[2]


def _minimised(difference: torch.Tensor, start: torch.Tensor, penalty: float) -> torch.Tensor:
    with torch.enable_grad():
        weight = start.clone().requires_grad_(True)
        optimizer = torch.optim.LBFGS([weight], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = -logsigmoid(difference @ weight).mean() + penalty / 2 * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
    return weight.detach()


def accuracy(head: Head, chosen: torch.Tensor, rejected: torch.Tensor) -> float:
    """Share of pairs in the right order; ties count half."""
    difference = head(chosen) - head(rejected)
    return float(((difference > 0).float() + 0.5 * (difference == 0).float()).mean())


def wilson(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, 1927)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
