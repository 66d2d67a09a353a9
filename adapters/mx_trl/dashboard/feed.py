"""From the files of runs to Trackio, line by line as they are written. Reads only; training never knows of it."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mx_plugin.ledger.folder import was_set_aside

from .columns import columns_of, is_number
from .files import ALERTS, STABILITY

log = logging.getLogger(__name__)

SOURCES = (STABILITY, "metrics.jsonl", "logs/train.jsonl")
"""The first that a run's folder has is shown: StabilityCallback's own, MXCallback's, a stage's log."""

_DEEPEST = 4
_NO_METRICS = ("step", "time", "not_finite")


class TrackedRun(Protocol):
    """What is needed of ``trackio.Run``."""

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None: ...

    def alert(self, title: str, text: str | None = None, level: Any = None, step: int | None = None) -> None: ...


@dataclass
class Tail:
    """The whole lines of a file that were added since the last look."""

    path: Path
    offset: int = 0
    identity: tuple[int, int] | None = None

    def replaced(self) -> bool:
        """Whether another file now stands in its place, or it was cut: what was read is no longer its beginning."""
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        new = (found.st_dev, found.st_ino)
        before, self.identity = self.identity, new
        return found.st_size < self.offset or (before is not None and before != new)

    def records(self) -> Iterator[dict[str, Any]]:
        """New JSON objects; what is no whole line yet is left for the next time."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                log.warning("%s holds a line that is no JSON; it is left out", self.path)
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                yield record


@dataclass
class _Followed:
    folder: Path
    source: Tail
    alerts: Tail
    begin: Callable[[], TrackedRun]
    run: TrackedRun | None = None


@dataclass
class Feed:
    """Follows all runs in a folder, those that begin later too.

    Args:
        folder: of one run, or of several.
        begin: ``begin(name)`` makes a run in Trackio.
        levels: from our severities to Trackio's levels.
    """

    folder: Path
    begin: Callable[[str], TrackedRun]
    levels: Mapping[str, Any]
    _runs: dict[Path, _Followed] = field(default_factory=dict)
    _begun: dict[str, int] = field(default_factory=dict)

    @property
    def begun(self) -> bool:
        """Whether any run has been begun in Trackio."""
        return bool(self._begun)

    def poll(self) -> int:
        """Hand over what is new; returns how many records and alerts that were."""
        for folder, source in find_runs(self.folder):
            known = self._runs.get(folder)
            if known is None or known.source.path != source:
                self._runs[folder] = self._follow(folder, source)
        return sum(self._advance(run) for run in list(self._runs.values()))

    def _follow(self, folder: Path, source: Path) -> _Followed:
        name = "/".join(folder.relative_to(self.folder).parts) or folder.resolve().name
        return _Followed(folder, Tail(source), Tail(folder / ALERTS), lambda: self.begin(self._numbered(name)))

    def _numbered(self, name: str) -> str:
        self._begun[name] = self._begun.get(name, 0) + 1
        return name if self._begun[name] == 1 else f"{name} ({self._begun[name]})"

    def _advance(self, followed: _Followed) -> int:
        if followed.source.replaced():  # begun anew, or resumed: another line in the plots
            followed.source = Tail(followed.source.path)
            followed.source.replaced()
            followed.alerts, followed.run = Tail(followed.folder / ALERTS), None
        count = 0
        for record in followed.source.records():
            values = numbers_of(record, followed.source.path.name == STABILITY)
            if values:
                followed.run = followed.run or followed.begin()
                followed.run.log(values, step=record["step"])
                count += 1
        if followed.run is None:
            return count
        for alert in followed.alerts.records():
            level = self.levels.get(str(alert.get("severity")), self.levels["warning"])
            followed.run.log({f"alerts/{alert.get('rule')}": 1}, step=alert["step"])
            followed.run.alert(str(alert.get("rule")), str(alert.get("message")), level, step=alert["step"])
            count += 1
        return count


def find_runs(folder: Path) -> list[tuple[Path, Path]]:
    """(run, file that tells of it) of every run in the folder, itself included; runs set aside are left out."""
    found = []
    for path, folders, _ in os.walk(folder):
        here = Path(path)
        depth = len(here.relative_to(folder).parts)
        folders[:] = sorted(d for d in folders if depth < _DEEPEST and not _no_run(here / d))
        source = next((here / name for name in SOURCES if (here / name).is_file()), None)
        if source is not None:
            found.append((here, source))
    # A stage's own log beside the run folder of its MXCallback tells of the same run.
    watched = {here for here, source in found if source.name != "train.jsonl"}
    return [(h, s) for h, s in found if s.name != "train.jsonl" or not any(h == w.parent for w in watched)]


def _no_run(folder: Path) -> bool:
    name = folder.name
    return name.startswith((".", "checkpoint")) or name in ("tb", "embedded") or was_set_aside(folder)


def numbers_of(record: Mapping[str, Any], ours: bool) -> dict[str, float]:
    """What is plotted of a record: its finite numbers; of a trainer's log those that have a name here."""
    chosen = record if ours else columns_of(record)
    return {
        name: float(value)
        for name, value in chosen.items()
        if name not in _NO_METRICS and is_number(value) and math.isfinite(value)
    }
