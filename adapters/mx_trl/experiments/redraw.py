"""The control ``noise``: every training step draws anew, for weights that do not change too."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mx_plugin.experiments.noise import NoiseBackend

from ..callback import MXCallback


class RedrawNoise(TrainerCallback):  # type: ignore[misc]
    """At each step's end: the next draw, and every weight packed anew (reference and reward models never change)."""

    def __init__(self, callback: MXCallback) -> None:
        self._callback = callback

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        session = self._callback.session
        if session is None:
            return
        for backend in session.engine.backends.all():
            if isinstance(backend, NoiseBackend):
                backend.redraw(state.global_step)
                session.engine.invalidate()
