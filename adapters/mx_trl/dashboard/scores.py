"""Spread of PPO's rewards and length of its responses, which TRL keeps to itself: it logs their mean alone, or nothing.

Observed is ``get_reward``, by which PPO's loop asks the reward model; PPO's last TRL is 1.12, so its name stays. Where
it is missing nothing is measured, and the log says so. Other trainers log both themselves.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from mx_plugin.execution.phases import TRACKER

log = logging.getLogger(__name__)

_ASK = "get_reward"


class Scores:
    """Scores of one step's responses, before TRL takes anything off them, and the tokens of each response."""

    def __init__(self) -> None:
        self._scores: list[torch.Tensor] = []
        self._lengths: list[torch.Tensor] = []

    def add(self, scores: torch.Tensor, lengths: torch.Tensor) -> None:
        """Scores and lengths of a batch, each (rows,)."""
        self._scores.append(scores.detach().float().cpu())
        self._lengths.append(lengths.detach().float().cpu())

    def take(self) -> dict[str, float]:
        """``reward_std`` (of the population) and ``length`` (mean tokens) since the last call; empty if none came."""
        if not self._scores:
            return {}
        scores, lengths = torch.cat(self._scores), torch.cat(self._lengths)
        self._scores, self._lengths = [], []
        return {"reward_std": float(scores.std(correction=0)), "length": float(lengths.mean())}


@contextmanager
def observed_scores(trainer: Any, scores: Scores) -> Iterator[None]:
    """While the block lasts, ``scores`` hears of all that a PPO trainer's reward model says outside evaluation."""
    family = {cls.__name__ for cls in type(trainer).__mro__}
    reward = getattr(trainer, "reward_model", None)
    if "PPOTrainer" not in family or reward is None:
        yield
        return
    module = _module_of(trainer)
    if module is None:
        log.warning("reward_std and length are not measured: %s is not TRL 1.12's PPOTrainer", type(trainer).__name__)
        yield
        return
    original = getattr(module, _ASK)

    @functools.wraps(original)
    def ask(model: Any, query_responses: torch.Tensor, pad_token_id: int, context_length: int) -> Any:
        answer = original(model, query_responses, pad_token_id, context_length)
        if model is trainer.reward_model and not TRACKER.is_evaluating:
            scores.add(answer[1].reshape(-1), answer[2].reshape(-1) - context_length + 1)
        return answer

    setattr(module, _ASK, ask)
    try:
        yield
    finally:
        setattr(module, _ASK, original)


def _module_of(trainer: Any) -> ModuleType | None:
    for cls in type(trainer).__mro__:
        module = sys.modules.get(cls.__module__)
        if "train" in cls.__dict__ and hasattr(module, _ASK):
            return module
    return None
