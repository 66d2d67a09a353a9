"""A sensitivity matrix as a CSV file, in and out; every reading error names the file and the line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import MatrixError, nearest
from .matrix import MatrixRow, duplicate

COLUMNS = ("layer", "phase", "role", "format", "cost", "metric", "unit")
REQUIRED = ("layer", "phase", "format", "cost")
ABOUT_LAYERS = ("in_features", "out_features", "dtype")
"""Columns that describe the layer; written where any row has them."""


def read_rows(path: Path) -> list[MatrixRow]:
    """Every row of a CSV, of all its metrics; see ``SensitivityMatrix.read``."""
    records = _records(_text(path), path)
    first = next(records, None)
    if first is None:
        raise MatrixError(f"{path}:1: the file is empty; the first line must be {','.join(COLUMNS)}")
    header = _header(first[1], f"{path}:{first[0]}")
    rows: list[MatrixRow] = []
    line_of: dict[tuple[str, ...], int] = {}
    for line, fields in records:
        row = _row(header, fields, f"{path}:{line}")
        identity = row.identity
        if identity in line_of:
            raise MatrixError(f"{path}:{line}: {duplicate(row)} (the first is on line {line_of[identity]})")
        line_of[identity] = line
        rows.append(row)
    if not rows:
        raise MatrixError(f"{path}:{first[0]}: a header and no rows; the matrix needs at least one measurement")
    return rows


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MatrixError(f"cannot read sensitivity matrix {path}: {error.strerror}; check the path") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        byte = data[error.start]
        raise MatrixError(f"{path}:{line}: byte {byte:#04x} is not UTF-8; save the file as UTF-8") from None


def _records(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each record that is not blank; the line on which the record starts."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    line = 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise MatrixError(f"{path}:{line}: not valid CSV: {error}") from None
        if fields is None:
            return
        if any(field.strip() for field in fields):
            yield line, fields
        line = reader.line_num + 1


def _header(fields: list[str], where: str) -> list[str]:
    header = [field.strip().lower() for field in fields]
    known = (*COLUMNS, *ABOUT_LAYERS)
    for name in header:
        if name not in known:
            raise MatrixError(f"{where}: unknown column {name!r}: {nearest(name, known)}")
        if header.count(name) > 1:
            raise MatrixError(f"{where}: column {name!r} is there twice; keep one")
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise MatrixError(f"{where}: missing column {', '.join(missing)}; the first line must be {','.join(COLUMNS)}")
    return header


def _row(header: list[str], fields: list[str], where: str) -> MatrixRow:
    if len(fields) != len(header):
        raise MatrixError(f"{where}: {len(fields)} fields where the header has {len(header)} ({','.join(header)})")
    values = dict(zip(header, fields, strict=True))
    try:
        cost = float(values["cost"])
    except ValueError:
        raise MatrixError(f"{where}: cost {values['cost']!r} is not a number") from None
    in_features, out_features = (_size(values, name, where) for name in ABOUT_LAYERS[:2])
    try:
        return MatrixRow(
            layer=values["layer"],
            phase=values["phase"],
            role=values.get("role", "policy"),
            format=values["format"],
            cost=cost,
            metric=values.get("metric", "cost"),
            unit=values.get("unit", ""),
            in_features=in_features,
            out_features=out_features,
            dtype=values.get("dtype", ""),
        )
    except MatrixError as error:
        raise MatrixError(f"{where}: {error}") from None


def _size(values: dict[str, str], name: str, where: str) -> int | None:
    text = values.get(name, "").strip()
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise MatrixError(f"{where}: {name} {text!r} is not a whole number") from None


def write_rows(path: Path, rows: Iterable[MatrixRow]) -> None:
    """Write a CSV; see ``SensitivityMatrix.write``."""
    rows = list(rows)
    columns = [*COLUMNS, *(name for name in ABOUT_LAYERS if any(getattr(row, name) for row in rows))]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([getattr(row, column) for column in columns] for row in rows)
    try:
        path.write_bytes(text.getvalue().encode("utf-8"))
    except OSError as error:
        raise MatrixError(f"cannot write sensitivity matrix {path}: {error.strerror or error}") from error
