"""The run folder ``<output>/policy_<name>/`` and the files in it."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

from ..errors import LedgerError
from .resume import keep_csv, keep_jsonl
from .rows import COLUMNS, EnergyRow
from .runlog import RunLog
from .writers import RecordFile, Write, csv_record, json_record, os_write, write_atomically

METRICS = ("step", "reward", "kl", "entropy", "ratio", "clip_fraction", "mismatch")
"""Columns that metrics.csv always has. ``kl`` as the trainer reports it; ``ratio`` of new to old policy;
``clip_fraction`` of tokens outside the clip range; ``mismatch`` = mean |logp_rollout - logp_gradient| per
token, in nats."""

EXTRA_METRICS = ("kl_unquantised", "seconds")

log = logging.getLogger(__name__)


class RunFolder:
    """config.json, energy.csv, metrics.csv, metrics.jsonl and training_log.txt of one run.

    Args:
        output_dir: where the folder goes; created if absent.
        policy_name: names the folder ``policy_<name>``; characters other than letters, digits, ``.``,
            ``-`` and ``_`` become ``_``.
        resume_step: None starts a run: a folder that already holds one is renamed to
            ``policy_<name>.1``, ``.2``, ... (``renamed_to``), never overwritten. A number appends to
            the folder after dropping the rows of later steps.
        extra_metrics: further columns of metrics.csv.
        write: the system call that writes records.

    A disk that fills up does not stop the run: files stay readable up to their last whole row, later
    rows wait in memory, a warning is logged once, and ``close`` says what was lost.

    Raises:
        LedgerError: the folder cannot be made or written; raised here, before any training.
    """

    def __init__(
        self,
        output_dir: str | Path,
        policy_name: str,
        resume_step: int | None = None,
        *,
        extra_metrics: Sequence[str] = EXTRA_METRICS,
        write: Write = os_write,
    ) -> None:
        self.path = Path(output_dir) / f"policy_{re.sub(r'[^A-Za-z0-9._-]+', '_', policy_name)}"
        self.renamed_to: Path | None = None
        self._write = write
        self._warned = False
        self._lock = threading.Lock()
        self._earlier_config = resume_step is not None
        self._files: list[RecordFile] = []
        try:
            self._prepare(resume_step)
            self._open(resume_step, (*METRICS, *extra_metrics))
        except LedgerError:
            self._abandon()
            raise
        except OSError as error:
            self._abandon()
            raise LedgerError(
                f"cannot write the run folder {self.path}: {error.strerror or error} ({error.filename or self.path}); "
                "choose another output_dir, or free space and permissions there"
            ) from error
        self._run_log = RunLog(self._log_file)
        if self.renamed_to is not None:
            log.info("%s already held a run; it was kept as %s", self.path, self.renamed_to)

    @property
    def metrics_columns(self) -> tuple[str, ...]:
        """Header of metrics.csv, fixed at construction."""
        return self._metrics_columns

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace config.json in one step; that of the run resumed is kept as config.json.1, if different.

        Raises:
            LedgerError: it cannot be written; the old file is untouched.
        """
        path = self.path / "config.json"
        text = json.dumps(json.loads(json_record(config)), indent=2, ensure_ascii=False) + "\n"
        try:
            if self._earlier_config and path.exists() and path.read_text(encoding="utf-8") != text:
                path.replace(_free_name(path))
            self._earlier_config = False
            write_atomically(path, text)
        except OSError as error:
            raise LedgerError(f"cannot write {path}: {error}; free space or permissions there") from error

    def write_energy(self, rows: Iterable[EnergyRow]) -> None:
        """Append rows to energy.csv; all rows of a call go in one write."""
        records = []
        for row in rows:
            fields = row.to_csv()
            records.append(csv_record([fields.get(column, "") for column in self._energy_columns]))
        self._energy.append(records)

    def write_metrics(self, step: int, values: Mapping[str, SupportsFloat | None]) -> None:
        """Append a row to metrics.csv. Unknown (absent or None) is empty; names without a column are
        left to ``write_log``. NaN and infinities are written as ``nan``, ``inf``, ``-inf``."""
        known: dict[str, SupportsFloat | None] = {**values, "step": step}
        self._metrics.append([csv_record([_number(known.get(name)) for name in self._metrics_columns])])

    def write_log(self, record: Mapping[str, Any]) -> None:
        """Append one JSON object with every key to metrics.jsonl. JSON has no NaN: NaN and infinities
        become null."""
        self._jsonl.append([json_record(record)])

    def note(self, text: str) -> None:
        """Append a timestamped line to training_log.txt, and nowhere else."""
        self._run_log.note(text)

    def flush(self) -> bool:
        """Try again what a full disk refused; True if nothing is left waiting."""
        flushed = [file.flush() for file in self._files]
        return all(flushed)

    def close(self) -> None:
        """Write what is left, detach from logging, close the files. Idempotent.

        Raises:
            LedgerError: rows that could not be written, how many of which file, and why.
        """
        self._run_log.detach()
        lost = []
        for file in self._files:
            if file.closed:
                continue
            try:
                waiting = file.close()
            except OSError as error:
                lost.append(f"the end of {file.path.name}: {error}")
                continue
            if waiting:
                lost.append(f"{waiting} rows of {file.path.name}: {file.error}")
        if lost:
            raise LedgerError(
                f"could not write to {self.path}: {'; '.join(lost)}. What was written before is readable; "
                "free space there and run again, or resume from the last checkpoint"
            )

    def _prepare(self, resume_step: int | None) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise LedgerError(f"{self.path} exists and is not a folder; choose another output_dir or move it away")
        holds_run = self.path.is_dir() and any(self.path.iterdir())
        if holds_run and resume_step is None:
            target = _free_name(self.path)
            self.path.rename(target)
            self.renamed_to = target
        elif resume_step is not None and not holds_run:
            log.warning("%s holds no run to resume at step %s; a new one starts there", self.path, resume_step)
        self.path.mkdir(parents=True, exist_ok=True)

    def _open(self, resume_step: int | None, metrics: tuple[str, ...]) -> None:
        self._energy_columns, self._metrics_columns = COLUMNS, metrics
        if resume_step is not None:
            self._energy_columns = keep_csv(self.path / "energy.csv", COLUMNS, resume_step)
            self._metrics_columns = keep_csv(self.path / "metrics.csv", metrics, resume_step)
            keep_jsonl(self.path / "metrics.jsonl", resume_step)
        self._energy = self._record_file("energy.csv", self._energy_columns)
        self._metrics = self._record_file("metrics.csv", self._metrics_columns)
        self._jsonl = self._record_file("metrics.jsonl")
        self._log_file = self._record_file("training_log.txt")

    def _record_file(self, name: str, columns: Sequence[str] = ()) -> RecordFile:
        file = RecordFile(self.path / name, self._on_failure, self._write)
        self._files.append(file)
        if columns and file.path.stat().st_size == 0 and not file.append([csv_record(columns)]):
            assert file.error is not None
            raise file.error
        return file

    def _on_failure(self, path: Path, error: OSError) -> None:
        with self._lock:
            if self._warned:
                return
            self._warned = True
        log.warning("cannot write %s: %s. The run goes on; rows wait in memory until there is room", path, error)

    def _abandon(self) -> None:
        for file in self._files:
            file.discard()


def _number(value: SupportsFloat | None) -> str:
    """Text of a metric: scalars of any library are numbers, unknown is empty."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else repr(float(value))


def was_set_aside(path: Path) -> bool:
    """Whether ``path`` is what an earlier run left, renamed ``<name>.1``, ...; a name like ``lr_0.5`` alone is none."""
    name, _, number = path.name.rpartition(".")
    return bool(name) and number.isdigit() and path.with_name(name).exists()


def _free_name(path: Path) -> Path:
    """``name.1``, ``name.2``, ...: one more than the highest taken."""
    taken = [
        int(other.name[len(path.name) + 1 :])
        for other in path.parent.iterdir()
        if other.name.startswith(f"{path.name}.") and other.name[len(path.name) + 1 :].isdigit()
    ]
    return path.with_name(f"{path.name}.{max(taken, default=0) + 1}")
