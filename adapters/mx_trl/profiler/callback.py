"""``MXProfilerCallback``: one line in a TRL script, and the run says where its time and memory went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from ..observer import Observer
from .errors import ProfilerError
from .flame import need_pyinstrument
from .run import ProfiledRun
from .schedule import Schedule


class MXProfilerCallback(Observer):
    """Time and memory of a run by phase, role, layer and format, with an MXCallback or without.

    ``trainer = GRPOTrainer(..., callbacks=[MXProfilerCallback()])`` is all there is to do. Seconds and peak memory of
    the phases are kept at every step; layers, Chrome traces and the flame graph in the steps of ``schedule``.

    Args:
        schedule: a :class:`~mx_trl.profiler.schedule.Schedule`, or its numbers ``(wait, warm-up, active, repeat)``.
        output_dir: ``profile/`` is made there; default: the MXCallback's run folder, else the trainer's ``output_dir``.
        trace: write a Chrome trace of each window.
        flame: write the flame graph; needs pyinstrument (``mx-plugin[profile]``).
        flame_interval: seconds between its samples.

    Raises:
        ProfilerError: an impossible schedule or interval; pyinstrument is missing. ``train()`` raises it for a schedule
            whose first profiled step comes after the run's last.
    """

    def __init__(
        self,
        schedule: Schedule | Sequence[int] | None = None,
        *,
        output_dir: str | Path | None = None,
        trace: bool = True,
        flame: bool = True,
        flame_interval: float = 0.001,
    ) -> None:
        self.schedule = Schedule.of(schedule)
        if not 0 < flame_interval < 10:
            raise ProfilerError(f"flame_interval is {flame_interval!r} seconds, must be above 0 and below 10")
        if flame:
            need_pyinstrument()
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.trace, self.flame, self.flame_interval = trace, flame, flame_interval
        self.run: ProfiledRun | None = None
        self.last_run: ProfiledRun | None = None
        super().__init__()

    @contextmanager
    def observing(self, trainer: Any) -> Iterator[None]:
        """Time one ``train()`` from beginning to end, whatever ends it."""
        with ProfiledRun(self, trainer) as run:
            self.run = self.last_run = run
            try:
                yield
            finally:
                self.run = None

    @property
    def profile_dir(self) -> Path | None:
        """Where the files of the last run are; None before it began, and on processes that write none."""
        run = self.run or self.last_run
        return run.folder.path if run is not None and run.folder is not None else None

    def summary(self) -> str:
        """The closing table of the last run."""
        run = self.run or self.last_run
        return run.table() if run is not None else "no run yet"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.run is not None:
            self.run.begin(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.run is not None:
            self.run.step_ended(state.global_step)
