"""A learning stage that is ready to train: it measures what it learnt on the examples kept out of training."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StageError
from ..roles import find_roles
from .built import BuiltStage
from .held_out import HeldOut, Measure, Measured, inspected
from .learning import Lesson
from .summary import StageSummary

logger = logging.getLogger(__name__)


@dataclass
class LearningStage(BuiltStage):
    """As :class:`BuiltStage`; with held-out examples the summary says what they gave before and after."""

    measure: Measure | None = None
    measure_name: str = ""

    @property
    def model(self) -> Any:
        """The model that is trained: the policy, or the reward model."""
        models = find_roles(self.trainer).models
        return models["policy"] if "policy" in models else models["reward"]

    def train(self) -> StageSummary:
        """Train, and say how it went. The measurements draw no random numbers and log nothing.

        A run that its time limit stopped is not measured. One that is resumed is measured as it began: the trainer
        reads the checkpoint later.
        """
        before = self._measured()
        summary = super().train()
        after = None if summary.stopped else self._measured()
        if before is not None and after is not None:
            summary.held_out = HeldOut(self.measure_name, len(after.each), before, after)
            if self.trainer.accelerator.is_main_process:
                summary.held_out.save(Path(self.trainer.args.output_dir))
        return summary

    def _measured(self) -> Measured | None:
        rows = self.trainer.eval_dataset
        if self.measure is None or rows is None:
            return None
        with inspected(self.model):
            size = self.trainer.args.per_device_eval_batch_size
            return self.measure(self.model, self.trainer.processing_class, rows, size)


def check_fits(trainer: Any, lesson: Lesson, tokens_of: Any) -> None:
    """Say which examples ``max_length`` left out or cut.

    Args:
        tokens_of: from a tokenised row to its length in tokens as it is learnt.

    Raises:
        StageError: none is left.
    """
    longest = trainer.args.max_length
    packed = getattr(trainer.args, "packing", False)
    for what, data, rows in (
        ("", lesson.train, trainer.train_dataset), ("held-out ", lesson.held_out, trainer.eval_dataset)
    ):  # fmt: skip
        if data is None:
            continue
        if len(rows) == 0:
            raise StageError(
                f"all {len(data)} {what}examples are longer than --max_length {longest}: raise it, or choose others"
            )
        if len(rows) < len(data) and not packed:
            logger.warning("%d of %d %sexamples are longer than %s tokens and left out",
                           len(data) - len(rows), len(data), what, longest)  # fmt: skip
    if longest is None or packed:
        return
    cut = sum(tokens_of(row) >= longest for row in trainer.train_dataset)
    if cut:
        logger.warning("%d of %d examples reach max_length, %d tokens: what lies beyond is cut",
                       cut, len(trainer.train_dataset), longest)  # fmt: skip
