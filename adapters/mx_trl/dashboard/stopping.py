"""Lets ``control.should_training_stop`` end plain TRL's PPO too, whose loop does not ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..checkpoints.batches import Batches, TrainingStopped


@contextmanager
def heeding_stops(trainer: Any) -> Iterator[None]:
    """While the block lasts, a PPO trainer that was told to stop does so before it draws the next prompts.

    ``train()`` then returns as if it had done its steps. Trainers with transformers' loop, and PPO that resumes, heed
    it themselves.
    """
    family = {cls.__name__ for cls in type(trainer).__mro__}
    if "PPOTrainer" not in family or hasattr(trainer, "saves_all"):
        yield
        return
    loader = trainer.dataloader
    trainer.dataloader = Batches(loader, lambda: bool(trainer.control.should_training_stop))
    try:
        yield
    except TrainingStopped:
        trainer.control = trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
    finally:
        trainer.dataloader = loader
