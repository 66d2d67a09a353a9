"""What a stage hands back: how the reward went, how long it took, and the callback's table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import Trainer


@dataclass
class StageSummary:
    """Result of one training run.

    ``rewards`` is the mean reward of each logged step; ``seconds`` the wall time of ``train()``;
    ``table`` the callback's closing table, empty without MX.
    """

    stage: str
    policy: str
    steps: int
    seconds: float
    rewards: list[float]
    output_dir: str
    table: str = ""
    log_history: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def reward_first(self) -> float | None:
        return self.rewards[0] if self.rewards else None

    @property
    def reward_last(self) -> float | None:
        return self.rewards[-1] if self.rewards else None

    def __str__(self) -> str:
        return "\n".join(part for part in (self.table, self.line()) if part)

    def line(self) -> str:
        """One line: policy, steps, seconds, reward first -> last."""
        if not self.rewards:
            reward = "no reward was logged"
        else:
            reward = f"reward {self.rewards[0]:.3f} -> {self.rewards[-1]:.3f}"
        return f"{self.stage}, policy {self.policy}: {self.steps} steps in {self.seconds:.1f} s, {reward}"


def summarise(
    stage: str, policy: str, trainer: Trainer, seconds: float, reward_key: str, callback: Any = None
) -> StageSummary:
    """Summary of a trainer that has trained; ``reward_key`` is the reward's name in its log."""
    history = list(trainer.state.log_history)
    return StageSummary(
        stage=stage,
        policy=policy,
        steps=int(trainer.state.global_step),
        seconds=seconds,
        rewards=[float(entry[reward_key]) for entry in history if reward_key in entry],
        output_dir=str(trainer.args.output_dir),
        table="" if callback is None else str(callback.summary()),
        log_history=history,
    )
