"""One window of profiled steps: torch's trace, the layers' seconds and the flame graph between its two ends."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .files import ProfileFolder
from .flame import Flame
from .layers import LayerTimer
from .phases import Boundary, PhaseClock
from .trace import Mark, add_phases, mark

log = logging.getLogger(__name__)


class Window:
    """From :meth:`warm_up` or :meth:`begin` to :meth:`end`. What fails here is logged and noted, and training goes on.

    Args:
        first_step: the first profiled step, 1 is the run's first.
        process: tells processes apart in names; empty for a run's only one.
    """

    def __init__(
        self,
        folder: ProfileFolder,
        clock: PhaseClock,
        layers: LayerTimer,
        flame: Flame | None,
        *,
        first_step: int,
        cuda: bool,
        trace: bool = True,
        process: str = "",
    ) -> None:
        self.first_step = first_step
        self._folder, self._clock, self._layers, self._flame = folder, clock, layers, flame
        self._process = process
        self._start: Mark | None = None
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self._torch: Any = profile(activities=activities) if trace else None
        self._prepared = False

    @property
    def active(self) -> bool:
        """Whether what runs now is kept."""
        return self._start is not None

    def warm_up(self) -> None:
        """Everything runs, and nothing is kept yet."""
        self._layers.install()
        if self._torch is not None and not self._prepared:
            self._prepared = True
            try:
                self._torch.prepare_trace()
            except Exception as error:  # another profiler has the thread: phases and layers are timed all the same
                self._no_trace(error)

    def begin(self) -> None:
        """Keep everything from here on."""
        self.warm_up()
        self._layers.drain()
        if self._torch is not None:
            try:
                self._torch.start_trace()
            except Exception as error:
                self._no_trace(error)
        self._clock.follow()
        self._start = mark("start")
        if self._flame is not None:
            try:
                self._flame.start()
            except Exception as error:
                self._folder.failed("the flame graph of a window", error)

    def end(self, last_step: int, complete: bool) -> dict[str, Any] | None:
        """Stop, write the trace and the flame graph; what profile.json says of this window.

        None where training ended before the first profiled step.
        """
        if self._flame is not None:
            self._flame.stop()
        stop = mark("end")
        track = self._clock.unfollow()
        until = track.pop().at if track and track[-1].step > last_step else stop.at
        self._layers.remove()
        if self._torch is not None and self._prepared:
            try:
                if self._start is None:
                    self._torch.start_trace()
                self._torch.stop_trace()
            except Exception as error:
                self._no_trace(error)
        if self._start is None:
            return None
        trace = self._write_trace(self._start, stop, track, until)
        if self._flame is not None:
            try:
                self._flame.write(self._folder.path)
            except Exception as error:
                self._folder.failed("the flame graph", error)
        return {"first_step": self.first_step, "last_step": last_step, "complete": complete, "trace": trace}

    def _write_trace(self, start: Mark, stop: Mark, track: list[Boundary], until: float) -> str | None:
        if self._torch is None:
            return None
        suffix = f"_{self._process.replace(' ', '')}" if self._process else ""
        target = self._folder.path / f"trace_step{self.first_step}{suffix}.json.gz"
        raw = target.with_name(f".{target.name}.raw.json")
        try:
            self._torch.export_chrome_trace(str(raw))
            why = add_phases(raw, target, start, stop, track, until, self._process)
        except Exception as error:
            self._folder.failed(target.name, error)
            return None
        finally:
            self._torch = None
            with suppress(OSError):
                raw.unlink(missing_ok=True)
        if why:
            self._folder.troubles.append(f"{target.name} holds no phases: {why}")
            log.warning("profiler: %s holds no phases: %s", target.name, why)
        return target.name

    def _no_trace(self, error: Exception) -> None:
        self._torch = None
        self._folder.failed(f"the trace of step {self.first_step}", error)


def settle_cuda() -> None:
    """Wait until the device has finished what was launched."""
    torch.cuda.synchronize()
