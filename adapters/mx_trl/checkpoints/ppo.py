"""PPO that resumes: TRL's PPOTrainer writes no critic and begins every ``train()`` at step 0; this one does neither."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.experimental.ppo import PPOTrainer

from .batches import Batches, TrainingStopped
from .errors import CheckpointError
from .parts import load_parts, save_parts
from .random_state import random_state, undisturbed
from .supplement import STATE
from .tree import load_rank, save_ranks
from .weights import load_weights

log = logging.getLogger(__name__)

CRITIC = "critic"
_SHAPE = ("batch_size", "num_mini_batches", "num_ppo_epochs", "gradient_accumulation_steps")
_OF_STATE = ("global_step", "episode", "epoch", "log_history", "total_flos", "num_input_tokens_seen")


class ResumablePPOTrainer(PPOTrainer):  # type: ignore[misc]
    """TRL's PPOTrainer, whose checkpoints hold all that training goes on from, bit for bit.

    A checkpoint is the policy's folder with ``critic/``, ``trainer_state.json`` and ``mx_state.{json,safetensors}``:
    optimiser, schedule, random generators, place in the data, MX and reward shaping. TRL's loop itself is untouched;
    it reads the number of steps after on_train_begin, where the checkpoint is taken up.

    Beyond TRL's: ``control.should_training_stop`` is heeded, and sampling completions for the log
    (``num_sample_generations``) draws no number from training's generators.
    """

    args: Any
    control: Any
    dataloader: Any
    model: Any
    sample_generations_freq: Any

    saves_all = True
    """Its checkpoints need no :class:`~mx_trl.checkpoints.supplement.Supplement`."""

    is_distributed_loading_by_transformers = False
    """Trainer.__init__ sets it, which PPOTrainer does not call; saving under several ranks asks for it."""

    _samples_every: int | None = None

    def train(self, resume_from_checkpoint: str | Path | None = None) -> None:
        """Train, from the start or from a checkpoint's folder.

        Raises:
            CheckpointError: the checkpoint is not whole, or was written with other models or batches.
        """
        handler, loader, steps = self.callback_handler, self.dataloader, self.args.num_total_batches
        begin = None if resume_from_checkpoint is None else _Begin(self, Path(resume_from_checkpoint))
        samples_every = getattr(self, "sample_generations_freq", None)
        if begin is not None:
            handler.callbacks.insert(0, begin)  # before MXCallback, which opens its files at the step that it sees
            # TRL's loop counts from 1 whatever step it resumes at: it asks after every step, and we know which are due.
            self.sample_generations_freq, self._samples_every = 1, samples_every
        self.dataloader = Batches(loader, lambda: bool(self.control.should_training_stop))
        try:
            super().train()
        except TrainingStopped:
            self.control = handler.on_train_end(self.args, self.state, self.control)
        finally:
            self.dataloader, self.args.num_total_batches = loader, steps
            if begin is not None:
                handler.callbacks.remove(begin)
                self.sample_generations_freq, self._samples_every = samples_every, None

    # ------------------------------------------------------------------ save

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's checkpoint without its optimiser's pickles, which nothing can resume from; then ours."""
        only_model, self.args.save_only_model = self.args.save_only_model, True
        wrapped, self.model = self.model, self._wrapper  # TRL's own saving looks through no DistributedDataParallel
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_only_model, self.model = only_model, wrapped
        if only_model:
            return
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.accelerator.is_main_process:
            self._wrapper.value_model.save_pretrained(folder / CRITIC)
        self.accelerator.wait_for_everyone()
        save_ranks(self.accelerator, folder, STATE, self._tree())

    def _tree(self) -> dict[str, Any]:
        return {
            "shape": self._shape(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            "accumulated": self.accelerator.step,
            "random": random_state(),
            "data": self.dataloader.state_dict(),
            "parts": save_parts(self),
        }

    def _shape(self) -> dict[str, int]:
        return {name: int(getattr(self.args, name)) for name in _SHAPE} | {"prompts": self.train_dataset_len}

    @property
    def _wrapper(self) -> Any:
        """Policy and critic, without what accelerate wraps them in."""
        return self.accelerator.unwrap_model(self.model)

    # ------------------------------------------------------------------ resume

    def _take_up(self, folder: Path, state: TrainerState) -> None:
        """At on_train_begin: everything as it was when ``folder`` was written."""
        tree = load_rank(self.accelerator, folder, STATE)
        if tree["shape"] != self._shape():
            raise CheckpointError(
                f"{folder} was written with {tree['shape']}, this run has {self._shape()}: use the same"
            )
        if hasattr(self._wrapper.policy, "peft_config"):
            self._load_from_checkpoint(str(folder), self._wrapper.policy)
        else:
            load_weights(self._wrapper.policy, folder)
        load_weights(self._wrapper.value_model, folder / CRITIC)
        self.optimizer.load_state_dict(tree["optimizer"])
        self.lr_scheduler.load_state_dict(tree["scheduler"])
        self.accelerator.step = tree["accumulated"]
        saved = type(state).load_from_json(str(folder / "trainer_state.json"))
        for name in _OF_STATE:
            setattr(state, name, getattr(saved, name))
        load_parts(self, tree["parts"])
        self.args.num_total_batches = max(state.max_steps - state.global_step, 0)
        self.dataloader.resume(tree["data"], tree["random"])
        log.info("resumed from %s after step %d of %d", folder, state.global_step, state.max_steps)

    # ------------------------------------------------------------------ samples for the log

    def generate_completions(self, sampling: bool = False) -> None:
        """As TRL's, at the steps that an unbroken run would sample at, and without a trace in training.

        TRL leaves its evaluation loader half read, and accelerate then takes that for the loader in use: gradients of
        the last batch of an epoch would be accumulated otherwise than without samples.
        """
        if self._samples_every is not None and (self.state.global_step - 1) % self._samples_every:
            return
        gradients = self.accelerator.gradient_state
        loaders = list(gradients.dataloader_references)
        with undisturbed():
            super().generate_completions(sampling)
        gradients.dataloader_references = loaders


class _Begin(TrainerCallback):  # type: ignore[misc]
    restores_checkpoint = True

    def __init__(self, trainer: ResumablePPOTrainer, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer._take_up(self.folder, state)
