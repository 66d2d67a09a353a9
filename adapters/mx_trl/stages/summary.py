"""What a stage hands back: how the reward went, how long it took, and the callback's table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer

if TYPE_CHECKING:
    from .held_out import HeldOut

_NAMES = {"objective/scores": "reward", "rewards/margins": "margin"}
"""How a summary calls what a trainer logs under another name."""


@dataclass
class StageSummary:
    """Result of one training run.

    ``rewards`` is the mean reward of each logged step, or what else ``measure`` names (SFT and the reward model:
    loss, DPO: margin); ``seconds`` the wall time of ``train()``; ``table`` the callback's closing table, empty without
    MX; ``held_out`` what the stage learnt, where examples were kept out of training. ``stopped_by``: what
    ended it before its last step, ``--max_minutes`` or an alert; ``resumed_from``: the checkpoint that it went on from.
    """

    stage: str
    policy: str
    steps: int
    seconds: float
    rewards: list[float]
    output_dir: str
    table: str = ""
    stopped_by: str | None = None
    resumed_from: Path | None = None
    log_history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    measure: str = "reward"
    held_out: HeldOut | None = field(default=None, repr=False)

    @property
    def stopped(self) -> bool:
        """Before its last step, with a checkpoint."""
        return self.stopped_by is not None

    @property
    def reward_first(self) -> float | None:
        return self.rewards[0] if self.rewards else None

    @property
    def reward_last(self) -> float | None:
        return self.rewards[-1] if self.rewards else None

    def __str__(self) -> str:
        return "\n".join(part for part in (self.table, self.line()) if part)

    def line(self) -> str:
        """One line: policy, steps, seconds, reward (or another measure) first -> last, and the held-out measure."""
        if not self.rewards:
            reward = f"no {self.measure} was logged"
        else:
            reward = f"{self.measure} {self.rewards[0]:.3f} -> {self.rewards[-1]:.3f}"
        held_out = "" if self.held_out is None else f", {self.held_out}"
        stopped = f", stopped by {self.stopped_by}" if self.stopped else ""
        ran = f"{self.steps} steps in {self.seconds:.1f} s"
        return f"{self.stage}, policy {self.policy}: {ran}, {reward}{held_out}{stopped}"


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
        measure=_NAMES.get(reward_key, reward_key),
    )
