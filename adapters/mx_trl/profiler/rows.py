"""A row of profile.csv: what one phase, or one layer in it, took in one step."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from mx_plugin.ledger.rows import ALL

from .layers import Key, Total
from .phases import PhaseTotal


@dataclass(frozen=True)
class ProfileRow:
    """The columns of profile.csv, in their order; None is "not measured here" and is written empty.

    Rows with layer ``all`` are a phase's: ``seconds`` of wall time, every step, and peaks in bytes. The others are a
    layer's, in profiled steps: ``seconds`` of its own by ``direction`` (forward, backward), over ``calls``.
    """

    step: int
    phase: str
    role: str
    layer: str
    format: str
    direction: str
    calls: int | None
    seconds: float
    resident_peak: int | None
    cuda_peak: int | None
    profiled: bool

    @property
    def is_phase(self) -> bool:
        return self.layer == ALL

    def texts(self) -> list[str]:
        """Of each column; floats round-trip."""
        return [_text(getattr(self, column)) for column in COLUMNS]

    @classmethod
    def read(cls, record: Mapping[str, str]) -> ProfileRow:
        """Inverse of :meth:`texts`, by column.

        Raises:
            KeyError, ValueError: a column is missing, or not of its type.
        """
        return cls(
            step=int(record["step"]),
            phase=record["phase"],
            role=record["role"],
            layer=record["layer"],
            format=record["format"],
            direction=record["direction"],
            calls=_optional(record["calls"]),
            seconds=float(record["seconds"]),
            resident_peak=_optional(record["resident_peak"]),
            cuda_peak=_optional(record["cuda_peak"]),
            profiled=record["profiled"] == "1",
        )


COLUMNS = tuple(field.name for field in fields(ProfileRow))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


def _optional(text: str) -> int | None:
    return int(text) if text else None


def phase_rows(step: int, totals: Mapping[str, PhaseTotal], profiled: bool) -> list[ProfileRow]:
    """Of every phase that ran in the step."""
    return [
        ProfileRow(
            step, phase, ALL, ALL, ALL, "", None, total.seconds, total.peaks.resident, total.peaks.cuda, profiled
        )
        for phase, total in totals.items()
    ]


def layer_rows(step: int, totals: Mapping[Key, Total]) -> list[ProfileRow]:
    """Of every layer that ran in a profiled step."""
    return [ProfileRow(step, *key, total.calls, total.seconds, None, None, True) for key, total in totals.items()]


def read_rows(file: Path) -> Iterator[ProfileRow]:
    """The rows of a profile.csv.

    Raises:
        KeyError, ValueError, OSError: it is not such a file.
    """
    with file.open(newline="", encoding="utf-8") as lines:
        for record in csv.DictReader(lines):
            yield ProfileRow.read(record)
