"""What a watched run leaves in its folder, and the two files by which it pauses. Imports no framework."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mx_plugin.atomic import write_atomically
from mx_plugin.errors import LedgerError
from mx_plugin.ledger.resume import keep_jsonl
from mx_plugin.ledger.writers import RecordFile, json_record

from .watch import Alert

log = logging.getLogger(__name__)

STABILITY, ALERTS, RULES = "stability.jsonl", "alerts.jsonl", "alert_rules.json"
PAUSED, RESUME = "paused.json", "resume"


class StabilityFiles:
    """``stability.jsonl``, ``alerts.jsonl`` and ``alert_rules.json`` of one run.

    Args:
        folder: created if absent.
        resume_step: 0 begins a run: files that are there are renamed ``<name>.1``, ``.2``, ...; else they are
            continued after dropping the records of later steps.

    Raises:
        LedgerError: they cannot be written.
    """

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        self.folder = folder
        self._warned = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (STABILITY, ALERTS):
                if resume_step:
                    keep_jsonl(folder / name, resume_step)
                else:
                    _set_aside(folder / name)
            for name in (PAUSED, RESUME):
                (folder / name).unlink(missing_ok=True)
            self._stability = RecordFile(folder / STABILITY, self._failed)
            self._alerts = RecordFile(folder / ALERTS, self._failed)
        except LedgerError:
            raise
        except OSError as error:
            raise LedgerError(
                f"cannot write {folder}: {error.strerror or error} ({error.filename or folder}); choose another "
                "output_dir, or free space and permissions there"
            ) from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record of a step."""
        self._stability.append([json_record(record)])

    def write_alert(self, alert: Alert) -> None:
        """Append an alert."""
        self._alerts.append([json_record({**alert.record(), "time": time.time()})])

    def write_rules(self, rules: list[dict[str, Any]]) -> None:
        """What the run was watched by."""
        write_atomically(self.folder / RULES, json.dumps(rules, indent=2) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """The records that are there, of a run that goes on."""
        return read_jsonl(self.folder / STABILITY)

    def close(self) -> None:
        """Write what is left; what a full disk refused is said in the log."""
        for file in (self._stability, self._alerts):
            lost = file.close()
            if lost:
                log.warning("%d records of %s could not be written: %s", lost, file.path, file.error)

    def _failed(self, path: Path, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            log.warning("cannot write %s: %s. The run goes on; records wait until there is room", path, error)


def read_jsonl(file: Path) -> list[dict[str, Any]]:
    """The objects of a file that may still be written; a last line without its end is left for later."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.split("\n")[:-1]:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _set_aside(path: Path) -> None:
    if not path.is_file() or path.stat().st_size == 0:
        return
    taken = [int(p.name.rpartition(".")[2]) for p in path.parent.glob(f"{path.name}.*") if p.suffix[1:].isdigit()]
    path.rename(path.with_name(f"{path.name}.{max(taken, default=0) + 1}"))


def resume(folder: Path) -> list[Path]:
    """Let the paused runs in ``folder`` go on; returns their folders."""
    paused = [file.parent for file in [folder / PAUSED, *sorted(folder.glob(f"**/{PAUSED}"))] if file.is_file()]
    found = list(dict.fromkeys(paused))
    for one in found:
        (one / RESUME).touch()
    return found
