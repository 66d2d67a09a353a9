"""RLOO: TRL recomputes old log-probs and ignores the sampler's, under vLLM too. Here the loss gets the weights.

RLOO has one probability ratio a sequence. A weight a sequence multiplies the advantage, which is the same as
multiplying the loss: the clipped objective is homogeneous in the advantage, and weights are positive. A weight a
token multiplies that token's share of the gradient, with every value left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..shadow import Method, shadowed
from .recorder import CorrectionError, recording
from .weights import WeightLog, truncated

METHODS = (
    "_generate_single_turn",
    "_generate_and_score_completions",
    "_compute_loss",
    "_get_per_token_logps_and_entropies",
)

RATIO = "importance_sampling_ratio"


@contextmanager
def corrected_rloo(trainer: Any, level: str, cap: float) -> Iterator[None]:
    """Truncated importance weights on the sampler's log-probs, for the training of this trainer."""
    plain = {name: getattr(trainer, name) for name in METHODS}
    state = _State(trainer, plain, level, cap)
    with shadowed(trainer, {name: getattr(state, name.lstrip("_")) for name in METHODS}):
        yield


class _State:
    def __init__(self, trainer: Any, plain: dict[str, Method], level: str, cap: float) -> None:
        self.trainer, self.plain, self.level, self.cap = trainer, plain, level, cap
        self.weights = WeightLog(trainer, level, cap)
        self._sampled: list[list[float]] | None = None
        self._old: torch.Tensor | None = None
        self._ratio: torch.Tensor | None = None

    def generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        if not self.trainer.model.training:  # evaluation updates nothing
            return self.plain["_generate_single_turn"](*arguments, **options)
        with recording() as sampler:
            completions = self.plain["_generate_single_turn"](*arguments, **options)
        self._sampled = sampler.of(completions)
        return completions

    def generate_and_score_completions(self, *arguments: Any, **options: Any) -> Any:
        self._sampled = self._old = None
        found = self.plain["_generate_and_score_completions"](*arguments, **options)
        if self._sampled is None:
            return found
        mask = found["completion_mask"]
        if self._old is None or self._old.shape != mask.shape:
            raise CorrectionError(
                "TRL's RLOO did not recompute the log-probs of its samples; install trl 1.16, or set "
                "rollout_correction='off'"
            )
        sampled = torch.zeros_like(self._old, dtype=torch.float32)
        for row, values in enumerate(self._sampled):
            sampled[row, : len(values)] = torch.tensor(values)
        found[RATIO] = truncated(self._old - sampled, mask, self.level, self.cap)
        found["sampling_per_token_logps"] = sampled
        self.weights.add(found[RATIO], mask)
        return found

    def get_per_token_logps_and_entropies(self, model: Any, *arguments: Any, **options: Any) -> Any:
        found = self.plain["_get_per_token_logps_and_entropies"](model, *arguments, **options)
        if self._ratio is not None:
            logps, *others = found
            kept = logps.detach()
            return (kept + self._ratio * (logps - kept), *others)
        if self._old is None and model is self.trainer.model and not torch.is_grad_enabled():
            self._old = found[0].detach()  # the first pass over the samples: the policy's
        return found

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        ratio = inputs.get(RATIO)
        if ratio is None:
            return self.plain["_compute_loss"](model, inputs, *arguments, **options)
        if ratio.shape[1] == 1:
            inputs = {**inputs, "advantages": inputs["advantages"] * ratio[:, 0]}
        else:
            self._ratio = ratio
        try:
            return self.plain["_compute_loss"](model, inputs, *arguments, **options)
        finally:
            self._ratio = None
