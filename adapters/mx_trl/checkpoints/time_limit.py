"""``--max_minutes``: training ends in time, between two steps and with a checkpoint."""

from __future__ import annotations

import logging
import time
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .errors import CheckpointError

log = logging.getLogger(__name__)


class TimeLimit(TrainerCallback):  # type: ignore[misc]
    """Stops training after the first step that ends later than ``minutes`` after its beginning, and saves.

    ``stopped`` tells that it did; a step that was the last one anyway is not a stop.

    Raises:
        CheckpointError: a limit that is not positive.
    """

    def __init__(self, minutes: float) -> None:
        if not minutes > 0:
            raise CheckpointError(f"--max_minutes {minutes:g}: give more than 0")
        self.minutes = minutes
        self.stopped = False
        self._began = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._began, self.stopped = time.monotonic(), False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        late = [time.monotonic() - self._began >= 60 * self.minutes]
        if args.world_size > 1:  # one clock decides, or ranks would wait for each other
            late = broadcast_object_list(late)
        if not late[0] or state.global_step >= state.max_steps:
            return
        self.stopped = True
        control.should_save = control.should_training_stop = True
        log.warning(
            "stopped after %g minutes (--max_minutes), %d of %d steps: go on with --resume_from_checkpoint auto",
            self.minutes, state.global_step, state.max_steps,
        )  # fmt: skip
