"""What transformers' own checkpoints leave out, so that SFT, DPO, reward and GRPO go on bit for bit, log included."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .parts import load_parts, save_parts
from .tree import load_tree, save_tree

log = logging.getLogger(__name__)

STATE = "mx_state"
"""``mx_state.json`` and ``.safetensors`` are written last: a checkpoint that has them is whole."""

_NUMBERS = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "_total_train_tokens", "_step")
_KEPT = ("_buffered_inputs",)
"""GRPO's samples that later steps learn from: transformers' checkpoints lose them, and TRL would sample again."""


class Supplement(TrainerCallback):  # type: ignore[misc]
    """Writes a trainer's running sums and samples, MX and reward shaping beside each of its checkpoints.

    transformers saves weights, optimiser, schedule and random generators itself; what accumulates between two lines of
    the log, and TRL's samples that are used more than once, it forgets.

    Args:
        trainer: a ``transformers.Trainer`` with its own loop (not PPO).
        resume: the checkpoint that training goes on from, or None.
    """

    restores_checkpoint = True

    def __init__(self, trainer: Any, resume: Path | None) -> None:
        self.trainer, self.resume = trainer, resume

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.save_only_model or not state.is_world_process_zero:
            return
        trainer = self.trainer
        numbers = {name: getattr(trainer, name) for name in _NUMBERS if hasattr(trainer, name)}
        kept = {name: getattr(trainer, name, None) for name in _KEPT}
        metrics = {mode: dict(found) for mode, found in getattr(trainer, "_metrics", {}).items()}
        tree = {"numbers": numbers, "kept": kept, "metrics": metrics, "parts": save_parts(trainer)}
        save_tree(Path(args.output_dir) / f"checkpoint-{state.global_step}", STATE, tree)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.resume is None:
            return
        if not (self.resume / f"{STATE}.json").is_file():
            log.warning(
                "%s has no %s.json: it was not written by a stage of mx_trl. Training goes on from its weights and "
                "optimiser, but not bit for bit", self.resume, STATE,
            )  # fmt: skip
            return
        self._take_up(load_tree(self.resume, STATE), args.device)
        log.info("resumed from %s after step %d of %d", self.resume, state.global_step, state.max_steps)

    def _take_up(self, tree: Mapping[str, Any], device: torch.device) -> None:
        trainer = self.trainer
        for name, value in {**tree["numbers"], **tree["kept"]}.items():
            if hasattr(trainer, name):
                setattr(trainer, name, _moved(value, device))
        for mode, found in tree["metrics"].items():
            trainer._metrics[mode].update(found)
        load_parts(trainer, tree["parts"])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """transformers divides the loss of all steps by the steps since the resumption: divide by all."""
        if self.resume is None or not logs or "train_loss" not in logs:
            return
        logs["train_loss"] = self.trainer._total_loss_scalar / max(state.global_step, 0.001)
        if state.log_history and "train_loss" in state.log_history[-1]:
            state.log_history[-1]["train_loss"] = logs["train_loss"]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, device) for item in value)
    return value
