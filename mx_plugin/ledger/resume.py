"""What a run folder keeps when a run resumes at a step: the rows up to that step."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import LedgerError
from .writers import csv_record, write_atomically


def keep_csv(path: Path, columns: Sequence[str], step: int) -> tuple[str, ...]:
    """Rewrite a CSV file with the rows of steps <= ``step``; returns its columns from now on.

    A last line that a crash cut short goes too. ``columns`` come first; columns that only the file has
    follow, so nothing recorded is lost. No file, or an empty one: nothing happens.

    Raises:
        LedgerError: the file is not such a table.
        OSError: it cannot be read or replaced; the old file is untouched.
    """
    if not path.exists() or path.stat().st_size == 0:
        return tuple(columns)
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text[: text.rfind("\n") + 1].split("\n")[:-1]
    header, *rows = list(csv.reader(lines)) or [[]]
    if "step" not in header:
        raise LedgerError(f"{path} has no column 'step' in line 1, so it cannot be resumed; move it away")
    merged = (*columns, *(name for name in header if name not in columns))
    kept = [csv_record(merged)]
    for number, row in enumerate(rows, start=2):
        record = dict(zip(header, row, strict=False))
        if len(row) != len(header) or not _is_integer(record["step"]):
            raise LedgerError(f"{path} line {number} is not a row of {len(header)} columns; mend or move the file")
        if int(record["step"]) <= step:
            kept.append(csv_record([record.get(name, "") for name in merged]))
    write_atomically(path, "".join(kept))
    return merged


def keep_jsonl(path: Path, step: int) -> None:
    """Rewrite a JSON-lines file without the objects of steps > ``step`` and without a cut last line.

    Raises:
        LedgerError: a line is not a JSON object.
        OSError: it cannot be read or replaced; the old file is untouched.
    """
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    kept = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            at = json.loads(line).get("step")
        except (ValueError, AttributeError):
            raise LedgerError(f"{path} line {number} is not a JSON object; mend or move the file") from None
        if at is None or at <= step:
            kept.append(line + "\n")
    write_atomically(path, "".join(kept))


def _is_integer(text: str) -> bool:
    return text.lstrip("-").isdigit()
