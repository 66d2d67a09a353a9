"""One row of energy.csv: what one (phase, role, format) of a step executed, took or used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from ..errors import LedgerError

ALL = "all"
"""Role and format of the rows that hold what belongs to a whole phase: seconds and measured joules."""


@dataclass(frozen=True)
class EnergyRow:
    """The columns of energy.csv, in their order. ``None`` is "not known here" and is written empty.

    Rows with a role and format hold ``macs``, ``bytes`` and *estimated* ``joules``; rows with role and
    format ``all`` hold ``seconds`` and *measured* ``joules``, so each column can be summed by itself -
    ``joules`` for one ``source`` at a time. ``estimated`` is given where ``joules`` is.
    """

    step: int
    phase: str
    role: str
    format: str
    dtype: str = ""
    seconds: float | None = None
    macs: int | None = None
    bytes: int | None = None
    joules: float | None = None
    source: str = ""
    estimated: bool | None = None

    def to_csv(self) -> dict[str, str]:
        """Text of each column; floats round-trip, unknown is empty, booleans are true or false."""
        return {column: _text(getattr(self, column)) for column in COLUMNS}

    @classmethod
    def from_csv(cls, record: Mapping[str, str]) -> EnergyRow:
        """Inverse of :meth:`to_csv`; ``record`` maps column names to text.

        Raises:
            LedgerError: a column is missing or not of its type; the message names it.
        """
        values: dict[str, object] = {}
        for column in COLUMNS:
            try:
                values[column] = _READERS[column](record[column])
            except KeyError:
                raise LedgerError(f"energy row without column {column!r}; it has {', '.join(record)}") from None
            except (TypeError, ValueError):
                raise LedgerError(f"energy row with {column}={record[column]!r}, which cannot be read") from None
        return cls(**values)  # type: ignore[arg-type]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _optional_int(text: str) -> int | None:
    return int(text) if text else None


def _optional_float(text: str) -> float | None:
    return float(text) if text else None


def _optional_bool(text: str) -> bool | None:
    if text not in ("", "true", "false"):
        raise ValueError(text)
    return {"": None, "true": True, "false": False}[text]


COLUMNS = tuple(f.name for f in fields(EnergyRow))

_READERS: dict[str, Callable[[str], object]] = dict.fromkeys(COLUMNS, str) | {
    "step": int,
    "seconds": _optional_float,
    "macs": _optional_int,
    "bytes": _optional_int,
    "joules": _optional_float,
    "estimated": _optional_bool,
}
