"""A progress bar that shows the reward; the full log goes to files and trackers, not to the terminal."""

from __future__ import annotations

from typing import Any

from transformers import ProgressCallback, Trainer, TrainerControl, TrainerState, TrainingArguments

_SHOWN = {
    "loss": ("loss",),
    "accuracy": ("accuracy", "rewards/accuracies"),
    "reward": ("objective/scores", "reward"),
    "kl": ("objective/kl", "kl"),
    "mismatch": ("mx/mismatch/mean_abs_logratio", "mx/mismatch"),
}


class RewardProgress(ProgressCallback):  # type: ignore[misc]
    """Trainer progress bar with reward, KL and mismatch, or loss and accuracy, behind it; not a line of all metrics."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.training_bar is None or not logs:
            return
        shown = {name: next((logs[k] for k in keys if k in logs), None) for name, keys in _SHOWN.items()}
        values = {name: f"{value:.3f}" for name, value in shown.items() if isinstance(value, float)}
        if values:
            self.training_bar.set_postfix(values)


def show_reward(trainer: Trainer) -> None:
    """Put :class:`RewardProgress` in the place of the trainer's own bar, if it has one."""
    if any(type(callback) is ProgressCallback for callback in trainer.callback_handler.callbacks):
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(RewardProgress())
