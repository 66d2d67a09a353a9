"""Rows of a hub id, folder or (gzipped) JSONL file, each with the place that a reader finds it at."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from mx_plugin.errors import nearest

from ..errors import StageError


@dataclass(frozen=True)
class Row:
    """A row at ``where`` (``FILE, line N`` or ``DATASET, row N``): its ``values``, or else its ``fault``."""

    where: str
    values: Mapping[str, Any] | None
    fault: str = ""


def numbered_rows(source: str, split: str = "train", config: str | None = None) -> Iterator[Row]:
    """Rows of a ``.jsonl``/``.jsonl.gz`` file, of a folder (saved by ``datasets`` or data files) or a hub dataset.

    Lines that are no JSON object come as rows with a fault; empty lines do not come at all.

    Raises:
        StageError: missing or unreadable file, unknown split, or a dataset that cannot be loaded.
    """
    path = Path(source)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _jsonl_rows(path)
    return _dataset_rows(source, split, config)


def read_rows(source: str, split: str = "train", config: str | None = None) -> Iterator[Mapping[str, Any]]:
    """As :func:`numbered_rows`, for whom the first malformed line is the end.

    Raises:
        StageError: as there, and a line that is no JSON object (with its number).
    """
    for row in numbered_rows(source, split, config):
        if row.values is None:
            raise StageError(f"{row.where}: {row.fault}")
        yield row.values


def _jsonl_rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise StageError(f"dataset file {path} does not exist")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _row(line, f"{path}, line {number}")
    except (OSError, EOFError) as error:
        raise StageError(f"cannot read dataset {path}: {error}") from error


def _row(line: bytes, where: str) -> Row:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Row(where, None, f"not UTF-8 (byte {error.start + 1})")
    except json.JSONDecodeError as error:
        return Row(where, None, f"not JSON ({error.msg})")
    except RecursionError:
        return Row(where, None, "not JSON (nested too deeply)")
    if not isinstance(values, dict):
        return Row(where, None, f"expected a JSON object, found {type(values).__name__}")
    return Row(where, values)


def _dataset_rows(source: str, split: str, config: str | None) -> Iterator[Row]:
    for number, values in enumerate(_loaded(source, split, config), start=1):
        yield Row(f"{source}, row {number}", values)


def _loaded(source: str, split: str, config: str | None) -> Dataset:
    path = Path(source)
    saved = path.is_dir() and any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        data = load_from_disk(source) if saved else load_dataset(source, config, split=split)
    except Exception as error:  # datasets raises many types, some of them private
        where = "folder" if path.exists() else "hub dataset"
        raise StageError(f"cannot load {where} {source!r}, split {split!r}: {error}") from error
    if isinstance(data, DatasetDict):
        if split not in data:
            raise StageError(f"{source} has no split {split!r}: {nearest(split, data)}")
        data = data[split]
    return data
