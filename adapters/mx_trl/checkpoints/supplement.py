"""What transformers' own checkpoints leave out, so that SFT, DPO, reward and GRPO go on bit for bit, log included."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .parts import load_parts, save_parts
from .tree import load_rank, save_ranks

log = logging.getLogger(__name__)

STATE = "mx_state"
"""``mx_state.json`` and ``.safetensors`` are written last: a checkpoint that has them is whole."""

_NUMBERS = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "_total_train_tokens", "_step")
_KEPT = ("_buffered_inputs",)
"""GRPO's samples that later steps learn from: transformers' checkpoints lose them, and TRL would sample again."""


class Supplement(TrainerCallback):  # type: ignore[misc]
    """Writes a trainer's running sums and samples, MX and reward shaping beside each of its checkpoints.

    transformers saves weights, optimiser, schedule and random generators itself. It forgets what accumulates between
    two lines of the log, TRL's samples that are used more than once, and the generator of a sampler that has one of its
    own: without that GRPO, resumed in its second epoch, would go through the prompts in the first one's order.

    Args:
        trainer: a ``transformers.Trainer`` with its own loop (not PPO).
        resume: the checkpoint that training goes on from, or None.
    """

    restores_checkpoint = True

    def __init__(self, trainer: Any, resume: Path | None) -> None:
        self.trainer, self.resume = trainer, resume
        self._began: torch.Tensor | None = None
        self._due: torch.Tensor | None = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.save_only_model:
            return
        trainer = self.trainer
        numbers = {name: getattr(trainer, name) for name in _NUMBERS if hasattr(trainer, name)}
        kept = {name: getattr(trainer, name, None) for name in _KEPT}
        metrics = {mode: dict(found) for mode, found in getattr(trainer, "_metrics", {}).items()}
        tree = {
            "numbers": numbers,
            "kept": kept,
            "metrics": metrics,
            "order": self._order(state),
            "parts": save_parts(trainer),
        }
        save_ranks(trainer.accelerator, Path(args.output_dir) / f"checkpoint-{state.global_step}", STATE, tree)

    def _order(self, state: TrainerState) -> torch.Tensor | None:
        """The sampler's generator as the epoch in progress began, or, between two, as the next one will begin."""
        if state.epoch is None or not float(state.epoch).is_integer():
            return self._began
        generator = _own_generator(self.trainer.callback_handler.train_dataloader)
        return None if generator is None else generator.get_state()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        generator = _own_generator(kwargs.get("train_dataloader"))
        if generator is None:
            return
        if self._due is not None:
            generator.set_state(self._due)
            self._due = None
        self._began = generator.get_state()

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
        self._take_up(load_rank(self.trainer.accelerator, self.resume, STATE), args.device)
        log.info("resumed from %s after step %d of %d", self.resume, state.global_step, state.max_steps)

    def _take_up(self, tree: Mapping[str, Any], device: torch.device) -> None:
        trainer = self.trainer
        for name, value in {**tree["numbers"], **tree["kept"]}.items():
            if hasattr(trainer, name):
                setattr(trainer, name, _moved(value, device))
        for mode, found in tree["metrics"].items():
            trainer._metrics[mode].update(found)
        self._due = tree["order"]
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


def _own_generator(loader: Any) -> torch.Generator | None:
    """The generator of the innermost sampler: accelerate wraps batch samplers into each other."""
    sampler = loader
    while (inner := getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)) is not None:
        sampler = inner
    generator: torch.Generator | None = getattr(sampler, "generator", None)
    return generator


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, device) for item in value)
    return value
