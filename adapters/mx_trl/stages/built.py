"""A stage that is ready to train: its trainer, and how to read what it did."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .summary import StageSummary, summarise

if TYPE_CHECKING:
    from ..callback import MXCallback


@dataclass
class BuiltStage:
    """A trainer with its models, prompts and reward, checked against each other; ``callback`` is None without MX.

    ``reward_key`` is the reward's name in the trainer's log; ``model_path`` where the policy was loaded from.
    """

    name: str
    trainer: Any
    callback: MXCallback | None
    reward_key: str
    model_path: str

    @property
    def policy(self) -> Any:
        """The model that is trained, without what the trainer wraps it in."""
        from ..roles import find_roles

        return find_roles(self.trainer).models["policy"]

    def train(self) -> StageSummary:
        """Train, and say how it went."""
        began = time.perf_counter()
        self.trainer.train()
        seconds = time.perf_counter() - began
        policy = "none" if self.callback is None else self.callback.config.policy
        return summarise(self.name, policy, self.trainer, seconds, self.reward_key, self.callback)
