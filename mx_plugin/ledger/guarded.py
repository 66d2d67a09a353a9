"""A meter that cannot hurt the run: whatever it raises becomes "unknown", with the reason."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..interfaces import Measurement, Meter, Work

log = logging.getLogger(__name__)


class GuardedMeter:
    """Wraps a :class:`Meter` so that ``begin`` and ``end`` always pair up and nothing is raised.

    ``end_window`` is called exactly when the ``begin_window`` before it succeeded. The first failure is
    logged as a warning, later ones are not.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.source = meter.name
        self._open = False
        self._warned = False
        self._why = ""

    def begin(self, window: str) -> None:
        try:
            self.meter.begin_window(window)
            self._open = True
        except Exception as error:
            self._open = False
            self._why = self._failed("begin_window", error)

    def end(self, window: str) -> Measurement:
        """The window's measurement; ``joules`` None with ``why`` if the meter failed at either end."""
        if not self._open:
            return Measurement(None, self.source, why=self._why)
        self._open = False
        try:
            measured = self._plausible(self.meter.end_window(window))
        except Exception as error:
            return Measurement(None, self.source, why=self._failed("end_window", error))
        self.source = measured.source
        return measured

    def estimate(self, work: Work) -> Measurement | None:
        """The meter's estimate, None where it only measures; a failure reads as unknown joules."""
        try:
            estimated = self.meter.estimate(work)
            return None if estimated is None else self._plausible(estimated)
        except Exception as error:
            return Measurement(None, self.source, estimated=True, why=self._failed("estimate", error))

    def describe(self) -> Mapping[str, Any]:
        """The meter's own description, or why it gave none."""
        try:
            return dict(self.meter.describe())
        except Exception as error:
            return {"meter": self.meter.name, "why": self._failed("describe", error)}

    def close(self) -> None:
        try:
            self.meter.close()
        except Exception as error:
            self._failed("close", error)

    def _plausible(self, measured: Measurement) -> Measurement:
        if not isinstance(measured, Measurement):
            raise TypeError(f"it returned {measured!r:.80}, not a Measurement")
        joules = measured.joules
        if joules is None or (math.isfinite(joules) and joules >= 0.0):
            return measured
        return replace(measured, joules=None, why=f"the meter returned {joules!r} J, which is not an energy")

    def _failed(self, call: str, error: Exception) -> str:
        why = f"{self.meter.name}.{call} failed: {type(error).__name__}: {error}"
        if not self._warned:
            self._warned = True
            log.warning("%s; its joules are unknown (None) where this happens, the run goes on", why)
        return why
