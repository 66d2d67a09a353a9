"""The trainer's log as two files: what training did, the same bits for the same seed, and what it took."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .errors import CheckpointError
from .files import RunFiles

_COSTS = re.compile(r"eps|step_time|.*(_runtime|_per_second|_memory.*)|mx/.*/(seconds|gbytes|gmacs|joules/.*)")
_BOTH = ("step", "epoch")


def is_cost(key: str) -> bool:
    """Whether a number of the log says what a step took - time, energy, bytes, work - and not what it did.

    Work counts as cost: a run that resumes has to pack its weights again.
    """
    return _COSTS.fullmatch(key) is not None


class TrainLog(TrainerCallback):  # type: ignore[misc]
    """Appends each line of the trainer's log to ``logs/train.jsonl`` and its costs to ``logs/costs.jsonl``.

    A resumed run first writes both anew from the log in its checkpoint, so that they are those of an unbroken run.
    """

    def __init__(self, files: RunFiles) -> None:
        self.files = files

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._write(state.log_history, "w")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero and state.log_history:
            self._write(state.log_history[-1:], "a")

    def _write(self, entries: Iterable[Mapping[str, Any]], mode: str) -> None:
        files: dict[Path, bool] = {self.files.train_log: False, self.files.cost_log: True}
        entries = list(entries)
        try:
            for file, costs in files.items():
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open(mode, encoding="utf-8") as opened:
                    opened.writelines(_line(entry, costs) for entry in entries)
        except OSError as error:
            raise CheckpointError(f"cannot write {self.files.train_log.parent}: {error}; free space there") from error


def _line(entry: Mapping[str, Any], costs: bool) -> str:
    chosen = {key: entry[key] for key in _BOTH if key in entry}
    for key in sorted(entry):
        if key not in _BOTH and is_cost(key) == costs:
            chosen[key] = _json(entry[key])
    if costs and set(chosen) <= set(_BOTH):
        return ""
    return json.dumps(chosen) + "\n"


def _json(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
