"""How far apart two executions put a policy on the same tokens, sequence by sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from mx_plugin.execution.engine import Engine

from ..samples import Sample

Logits = Callable[[Sample], torch.Tensor]
"""A batch -> (sequences, length - 1, vocabulary) float32 log-probabilities of the next token."""


def log_probs_of(policy: PreTrainedModel, temperature: float, engine: Engine | None = None, phase: str = "") -> Logits:
    """Log-probabilities of a model, in a phase's formats where an engine is given, at the sampling temperature."""

    def log_probs(sample: Sample) -> torch.Tensor:
        entered = nullcontext() if engine is None else engine.probing(policy=phase)
        positions = (sample.attention.long().cumsum(1) - 1).clamp(min=0)
        with torch.no_grad(), entered:
            output = policy(
                input_ids=sample.tokens, attention_mask=sample.attention, position_ids=positions, use_cache=False
            )
        # Greedy answers come from a distribution without spread: compare it at temperature 1.
        return torch.log_softmax(output.logits[:, :-1].float() / (temperature or 1.0), -1)

    return log_probs


@dataclass
class Distance:
    """KL(first || second) over whole distributions, and log-ratios of the sampled tokens, on sampled tokens alone."""

    kl: list[float] = field(default_factory=list)
    """Nats a token, one number a sequence."""
    sequence_logratios: list[float] = field(default_factory=list)
    token_kl_sum: float = 0.0
    token_abs_logratio_sum: float = 0.0
    outside: int = 0
    tokens: int = 0

    @property
    def mean_kl(self) -> float:
        """Nats a token, over all tokens."""
        return self.token_kl_sum / max(self.tokens, 1)

    def add(self, first: torch.Tensor, second: torch.Tensor, sample: Sample, clip: float) -> None:
        """Compare one batch; both tables as :data:`Logits` gives them."""
        mask = sample.sampled[:, 1:]
        kl = (first.exp() * (first - second)).sum(-1).masked_fill(~mask, 0.0)
        picked = sample.tokens[:, 1:, None]
        logratio = (second - first).gather(-1, picked)[..., 0].masked_fill(~mask, 0.0)
        ratio = logratio.exp()
        self.kl += (kl.sum(1) / mask.sum(1).clamp(min=1)).tolist()
        self.sequence_logratios += logratio.sum(1).tolist()
        self.token_kl_sum += float(kl.double().sum())
        self.token_abs_logratio_sum += float(logratio.double().abs().sum())
        self.outside += int((((ratio < 1 - clip) | (ratio > 1 + clip)) & mask).sum())
        self.tokens += int(mask.sum())

    def mismatch(self) -> dict[str, Any]:
        """The numbers of the step-0 gate (``mx_plugin.execution.mismatch``), over all sequences."""
        count = max(self.tokens, 1)
        sums = torch.tensor(self.sequence_logratios)
        return {
            "kl": self.mean_kl,
            "mean_abs_logratio": self.token_abs_logratio_sum / count,
            "frac_outside_clip": self.outside / count,
            "seq_logratio_std": float(sums.std()) if len(sums) > 1 else None,
            "tokens": self.tokens,
        }


def distance(first: Logits, second: Logits, samples: Iterable[Sample], clip: float) -> Distance:
    """Both on all batches, one batch at a time."""
    found = Distance()
    for sample in samples:
        found.add(first(sample), second(sample), sample, clip)
    return found
