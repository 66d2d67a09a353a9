"""What alerts do beside being written down: say it, call hooks, pause, stop with a checkpoint."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from mx_plugin.atomic import write_atomically

from .files import PAUSED, RESUME
from .hooks import AlertHook
from .rules import Rule
from .watch import Alert

log = logging.getLogger("mx_trl.dashboard")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_TRACKIO = {"info": "INFO", "warning": "WARN", "error": "ERROR"}
_POLL_SECONDS = 0.5


def tell(alert: Alert) -> None:
    """The run's log, and Trackio where the trainer itself reports to it (``report_to: trackio``)."""
    log.log(_LEVELS[alert.severity], "alert %s at step %d: %s", alert.rule, alert.step, alert.message)
    trackio = sys.modules.get("trackio")
    if trackio is None:
        return
    try:
        from trackio import context_vars

        if context_vars.current_run.get() is not None:
            level = getattr(trackio.AlertLevel, _TRACKIO[alert.severity])
            trackio.alert(title=alert.rule, text=f"step {alert.step}: {alert.message}", level=level)
    except Exception as error:  # a tracker's trouble is not training's
        log.warning("trackio did not take the alert: %s: %s", type(error).__name__, error)


def call_hooks(found: Sequence[tuple[Rule, Alert]], hooks: dict[str, AlertHook]) -> None:
    """Call the hook of each rule that has one; what it raises is logged."""
    for rule, alert in found:
        if rule.hook is not None:
            try:
                hooks[rule.hook](alert)
            except Exception:
                log.exception("alert hook %r of rule %r failed; training goes on", rule.hook, rule.name)


def agreed(word: Any, world_size: int) -> Any:
    """What rank 0 says, on every rank: ranks that disagree about stopping would wait for each other."""
    if world_size <= 1:
        return word
    [word] = broadcast_object_list([word])
    return word


def pause(folder: Path | None, rule: Rule, step: int, world_size: int) -> bool:
    """Wait until ``resume`` appears in the folder (on rank 0); False if the time was up first and the run is to stop.

    ``folder`` is None on the other ranks.
    """
    until = time.monotonic() + 60 * rule.pause_minutes
    if folder is not None:
        note = {"step": step, "rule": rule.name, "since": time.time(), "minutes": rule.pause_minutes}
        write_atomically(folder / PAUSED, json.dumps(note | {"then": rule.after_pause}) + "\n")
        log.warning(
            "paused after step %d by rule %s: go on with `mx-plugin dashboard %s --resume`; %s after %g minutes",
            step, rule.name, folder, "stops with a checkpoint" if rule.after_pause == "stop" else "goes on",
            rule.pause_minutes,
        )  # fmt: skip
    try:
        while True:
            word = "wait"
            if folder is not None and (folder / RESUME).exists():
                word = "go_on"
            elif folder is not None and time.monotonic() >= until:
                word = rule.after_pause
            word = agreed(word, world_size)
            if word != "wait":
                break
            time.sleep(_POLL_SECONDS)
    finally:
        if folder is not None:
            for name in (PAUSED, RESUME):
                (folder / name).unlink(missing_ok=True)
    if folder is not None:
        log.warning("step %d: %s", step, "goes on" if word == "go_on" else "the pause is over: stopping")
    return bool(word == "go_on")
