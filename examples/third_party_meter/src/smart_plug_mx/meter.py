"""The meter ``smart-plug``: joules of whatever hangs on the plug, read over the network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mx_plugin.errors import PluginError, nearest
from mx_plugin.interfaces import Measurement, Meter

from .counter import JOULES, POWER, PlugCounter, State
from .http_json import JsonField

URL_VARIABLE = "SMART_PLUG_URL"
UNITS = (*JOULES, *POWER)


class SmartPlugMeter(Meter):
    """Reads a plug's energy counter, or integrates its power, in a thread; a window takes the difference.

    A plug measures all that hangs on it, display and power supply included, and updates slowly. In a window in which
    its counter did not tick, joules are None with ``updates=0``: the energy appears in a neighbouring window, so sums
    over a run stay right. Where the plug could not be read, they are None with the reason.

    Args:
        url: what to GET; default ``$SMART_PLUG_URL``, for URLs whose query holds a password.
        field: where the number stands in the JSON; default that of a Shelly of the second generation.
        unit: of the number: J, Wh, kWh for a counter; W, mW for a power.
        poll_s: seconds between two readings.
        timeout_s, max_bytes: limits of one reading.

    Raises:
        PluginError: no URL, or an option out of its range.
    """

    name = "smart-plug"

    def __init__(
        self,
        url: str | None = None,
        field: str = "aenergy.total",
        unit: str = "Wh",
        poll_s: float = 1.0,
        timeout_s: float = 2.0,
        max_bytes: int = 65536,
    ) -> None:
        url = url or os.environ.get(URL_VARIABLE)
        if not url:
            raise PluginError(
                f"smart-plug has no url: set --meter_options smart-plug.url=http://HOST/rpc/Switch.GetStatus?id=0, or "
                f"${URL_VARIABLE}"
            )
        if unit not in UNITS:
            raise PluginError(f"unit={unit!r}: {nearest(unit, UNITS)}")
        for option, value in (("poll_s", poll_s), ("timeout_s", timeout_s), ("max_bytes", max_bytes)):
            if not value > 0:
                raise PluginError(f"{option}={value} must be above 0")
        try:
            self._field = JsonField(str(url), str(field), float(timeout_s), int(max_bytes))
        except ValueError as error:
            raise PluginError(str(error)) from error
        self._unit, self._poll_s = unit, float(poll_s)
        self._counter = PlugCounter(self._field.read, unit, self._poll_s)
        self._before: State | None = None

    def begin_window(self, name: str) -> None:
        """Remember where the counter stands; the first window starts the readings."""
        self._counter.start()
        self._before = self._counter.state

    def end_window(self, name: str) -> Measurement:
        """Joules between the last readings before the window's two ends."""
        before, now = self._before, self._counter.state
        self._before = None
        if before is None:
            return Measurement(None, self.name, why="no window was begun")
        if before.trouble or now.trouble:
            return Measurement(None, self.name, why=now.trouble or before.trouble)
        if now.breaks != before.breaks:
            return Measurement(None, self.name, why=now.last_break)
        silent, patience = self._counter.silent_for(), 2 * (self._poll_s + self._field.timeout_s)
        if silent > patience:  # held up inside one reading: no tick is then no news
            return Measurement(None, self.name, why=f"{self._field.place} was not read for {silent:.1f} s")
        ticks = now.ticks - before.ticks
        resolution = self._resolution(now)
        if not ticks:
            why = "the plug's counter did not tick in this window; its energy appears in a neighbouring one"
            return Measurement(None, self.name, resolution_s=resolution, updates=0, why=why)
        joules = now.joules - before.joules
        return Measurement(joules, self.name, {"plug": joules}, resolution_s=resolution, updates=ticks)

    def _resolution(self, now: State) -> float | None:
        """Seconds between two ticks, as seen so far; None before there were two."""
        if now.ticks < 2 or now.first_tick is None or now.last_tick is None:
            return None
        return (now.last_tick - now.first_tick) / (now.ticks - 1)

    def describe(self) -> Mapping[str, Any]:
        """For config.json; the URL's query stays out."""
        return {
            "meter": self.name,
            "place": self._field.place,
            "field": self._field.field,
            "unit": self._unit,
            "poll_s": self._poll_s,
            "readings_that_failed": self._counter.state.breaks,
        }

    def close(self) -> None:
        """Stop reading."""
        self._counter.close()
