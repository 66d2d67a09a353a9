"""A stage that is ready to train: its trainer, and how to read what it did."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.running import RunOptions, running
from ..generation import evaluation_phase
from .observing import observers_of
from .summary import StageSummary, summarise

if TYPE_CHECKING:
    from trl import ModelConfig

    from ..callback import MXCallback
    from .arguments import CommonArguments


@dataclass
class BuiltStage:
    """A trainer with its models, prompts and reward, checked against each other; ``callback`` is None without MX.

    ``reward_key`` is the reward's name in the trainer's log; ``model_path`` where the policy was loaded from. The
    trainer's ``output_dir`` is the run's folder; ``options`` are what is beyond the trainer's own arguments.
    """

    name: str
    trainer: Any
    callback: MXCallback | None
    reward_key: str
    model_path: str
    options: RunOptions = field(default_factory=RunOptions)

    @property
    def policy(self) -> Any:
        """The model that is trained, without what the trainer wraps it in."""
        from ..roles import find_roles

        return find_roles(self.trainer).models["policy"]

    def run(self) -> StageSummary:
        """Train, and leave the model in ``<run>/checkpoints/final``, unless it was stopped before the last step.

        Raises:
            StageError: as :meth:`train`, or the model cannot be written.
        """
        from .final import save_final

        summary = self.train()
        if not summary.stopped:
            save_final(self.trainer)
        return summary

    def train(self) -> StageSummary:
        """Train, from the checkpoint that ``args.resume_from_checkpoint`` names if it does, and say how it went.

        Raises:
            CheckpointError: no checkpoint there, or one that does not fit; files that cannot be written.
        """
        # Without MXCallback, too: reward shaping counts no scores of evaluations.
        with running(self.trainer, self.name, self.callback, self.options) as run, evaluation_phase(self.trainer):
            began = time.perf_counter()
            if run.resume is None:
                self.trainer.train()
            else:
                self.trainer.train(resume_from_checkpoint=str(run.resume))
            seconds = time.perf_counter() - began
        policy = "none" if self.callback is None else self.callback.config.policy
        summary = summarise(self.name, policy, self.trainer, seconds, self.reward_key, self.callback)
        summary.stopped_by = run.stopped_by
        summary.resumed_from = None if run.resume is None else Path(run.resume)
        return summary


def run_options(script: CommonArguments, model_args: ModelConfig) -> RunOptions:
    """The run's options among a stage's arguments.

    Raises:
        MXError: observers that cannot be as asked, see :func:`~mx_trl.stages.observing.observers_of`.
    """
    return RunOptions(script.max_minutes, {"script": script, "model": model_args}, observers_of(script))
