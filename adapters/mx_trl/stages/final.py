"""The model that a stage ends with: a folder that loads by ``from_pretrained``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import StageError
from ..experiments.weights import save_model
from ..roles import find_roles

FINAL = Path("checkpoints") / "final"
"""Where the model lies in the stage's output folder."""


def final_folder(output_dir: str | Path) -> Path:
    """Where a stage that trains with this ``output_dir`` leaves its model."""
    return Path(output_dir) / FINAL


def save_final(trainer: Any) -> Path:
    """Write the trained model (policy, or reward model) and its tokenizer; only the main process writes.

    Adapters are merged into the weights first.

    Returns:
        the folder.

    Raises:
        StageError: the folder cannot be written.
    """
    folder = final_folder(trainer.args.output_dir)
    models = find_roles(trainer).models
    model = models["policy"] if "policy" in models else models["reward"]
    if trainer.accelerator.is_main_process:
        try:
            save_model(model, trainer.processing_class, folder)
        except OSError as error:
            raise StageError(f"cannot write the final model to {folder}: {error}") from error
    trainer.accelerator.wait_for_everyone()
    return folder
