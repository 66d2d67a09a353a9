"""``--report_to``: the trackers that a run reports to, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.integrations import (
    TensorBoardCallback,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)

from .errors import CheckpointError

_INSTALLED: dict[str, Callable[[], bool]] = {
    "tensorboard": is_tensorboard_available,
    "trackio": is_trackio_available,
    "wandb": is_wandb_available,
}


def check_reporters(training_args: Any) -> None:
    """Say which tracker of ``report_to`` is not installed.

    Raises:
        CheckpointError: one is not, with the command that installs it.
    """
    for name in training_args.report_to:
        installed = _INSTALLED.get(name)
        if installed is not None and not installed():
            raise CheckpointError(f"--report_to {name}: it is not installed; pip install {name}, or leave it out")


def tensorboard_to(trainer: Any, folder: Path) -> None:
    """Let the trainer's TensorBoard callback, if it has one, write to ``folder``."""
    for reporter in trainer.callback_handler.callbacks:
        if isinstance(reporter, TensorBoardCallback):
            reporter.logging_dir = str(folder)
