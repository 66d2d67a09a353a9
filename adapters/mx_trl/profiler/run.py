"""One ``train()`` under the profiler: its clock, its windows, its files."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..callback import MXCallback
from ..roles import find_roles
from .errors import ProfilerError
from .files import ProfileFolder
from .flame import Flame
from .labels import Formats, layers_of
from .layers import DeviceTime, HostTime, LayerTimer
from .memory import PeakMemory
from .phases import PhaseClock, PhaseTotal
from .rows import layer_rows, phase_rows
from .schedule import ACTIVE
from .totals import closing_table, layer_totals, phase_totals
from .window import Window, settle_cuda

if TYPE_CHECKING:
    from transformers import TrainerState

    from .callback import MXProfilerCallback

log = logging.getLogger(__name__)


class ProfiledRun:
    """Everything that lives for one ``train()`` of one trainer. Files are the main process's."""

    def __init__(self, callback: MXProfilerCallback, trainer: Any) -> None:
        self.callback = callback
        self.trainer = trainer
        self.models = find_roles(trainer).models
        self.cuda = any(p.is_cuda for model in self.models.values() for p in model.parameters())
        self.folder: ProfileFolder | None = None
        self.step = self.first_step = 0
        """Training steps completed; those of before this ``train()``."""
        self._memory = PeakMemory(self.cuda)
        self._clock = PhaseClock(self._memory, settle_cuda if self.cuda else None)
        self._flame = Flame(callback.flame_interval) if callback.flame else None
        self._layers: LayerTimer | None = None
        self._window: Window | None = None
        self._windows: list[dict[str, Any]] = []

    # ------------------------------------------------------------------ begin and end

    def __enter__(self) -> ProfiledRun:
        self._clock.start(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish()
        except Exception:
            if error is None:
                raise
            log.exception("the profile could not be completed after an error in training")

    def _finish(self) -> None:
        try:
            profiled = self._window is not None and self._window.active
            totals = self._clock.stop(self.step + 1)
            self._book(self.step + 1, totals, profiled)
            self._close_window(self.step + 1, complete=False)
        finally:
            self._memory.close()
            if self.folder is not None:
                self._write_summary()
                self.folder.close()
        if self.folder is not None:
            print(self.table(), flush=True)

    def begin(self, state: TrainerState) -> None:
        """on_train_begin: the step is known (resumed or not), so the files can be opened.

        Raises:
            ProfilerError: the schedule's first profiled step comes after the last step.
            LedgerError: the files cannot be written.
        """
        if self.folder is not None or not state.is_world_process_zero:
            return
        self.step = self.first_step = state.global_step
        self._clock.rebase(self.step + 1)
        self._check_schedule(state)
        self.folder = ProfileFolder(self._run_dir(), self.step)
        self._windows = self.folder.windows
        self._layers = LayerTimer(
            layers_of(self.models), Formats(self._engine()), DeviceTime() if self.cuda else HostTime()
        )
        self._turn_to(0)

    def _check_schedule(self, state: TrainerState) -> None:
        if state.max_steps <= 0:
            return
        try:
            self.callback.schedule.check(state.max_steps - self.step)
        except ProfilerError as error:
            if not self.step:
                raise
            log.warning("%s (this run went on at step %d)", error, self.step)

    def _mx(self) -> MXCallback | None:
        callbacks = self.trainer.callback_handler.callbacks
        return next((callback for callback in callbacks if isinstance(callback, MXCallback)), None)

    def _engine(self) -> Any:
        mx = self._mx()
        return mx.session.engine if mx is not None and mx.session is not None else None

    def _run_dir(self) -> Path:
        mx = self._mx()
        if self.callback.output_dir is not None:
            return self.callback.output_dir
        return mx.run_dir if mx is not None and mx.run_dir is not None else Path(self.trainer.args.output_dir)

    # ------------------------------------------------------------------ steps

    def step_ended(self, step: int) -> None:
        """on_step_end: book the step, and open or close a window. Idempotent per step."""
        if step <= self.step:
            return
        totals = self._clock.step_end(step)
        self._book(step, totals, self._window is not None and self._window.active)
        self.step = step
        self._turn_to(step - self.first_step)

    def _book(self, step: int, totals: dict[str, PhaseTotal], profiled: bool) -> None:
        if self.folder is None:
            return
        rows = phase_rows(step, totals, profiled)
        if self._layers is not None and profiled:
            rows += layer_rows(step, self._layers.drain())
        self.folder.append(rows)

    def _turn_to(self, index: int) -> None:
        """The run's step number ``index`` (0 is its first) is about to begin."""
        if self.folder is None or self._layers is None:
            return
        schedule = self.callback.schedule
        if schedule.closes(index):
            self._close_window(self.step, complete=True)
            self._write_summary()
        if schedule.opens(index):
            self._window = self._make_window(self.folder, self._layers, self.step + 1 + schedule.warmup)
        if self._window is None:
            return
        if schedule.state(index) != ACTIVE:
            self._window.warm_up()
        elif not self._window.active:
            self._window.begin()

    def _make_window(self, folder: ProfileFolder, layers: LayerTimer, first_step: int) -> Window:
        args = self.trainer.args
        return Window(
            folder,
            self._clock,
            layers,
            self._flame,
            first_step=first_step,
            cuda=self.cuda,
            trace=self.callback.trace,
            process=f"rank {args.process_index}" if args.world_size > 1 else "",
        )

    def _close_window(self, last_step: int, complete: bool) -> None:
        window, self._window = self._window, None
        if window is None:
            return
        described = window.end(last_step, complete)
        if described is not None:
            self._windows.append(described)

    # ------------------------------------------------------------------ what is told

    def _write_summary(self) -> None:
        folder = self.folder
        assert folder is not None
        schedule = self.callback.schedule
        folder.write_summary(
            {
                "version": 1,
                "schedule": {name: getattr(schedule, name) for name in ("wait", "warmup", "active", "repeat")},
                "steps": max((row.step for row in folder.rows), default=0),
                "profiled_steps": sorted({row.step for row in folder.rows if row.profiled}),
                "windows": self._windows,
                "phases": phase_totals(folder.rows),
                "layers": layer_totals(folder.rows),
                "clock": "CUDA events" if self.cuda else "host",
                "unknown": {"resident_peak": self._memory.why} if self._memory.why else {},
                "troubles": folder.troubles,
            }
        )

    def table(self) -> str:
        """The closing table; one line on processes that write no files."""
        if self.folder is None:
            return "this process keeps no profile"
        notes = [f"peak resident: n/a: {self._memory.why}"] if self._memory.why else []
        return closing_table(self.folder.rows, str(self.folder.path), [*notes, *self.folder.troubles])
