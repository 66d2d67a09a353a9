"""The sensitivity matrix: what each format costs in quality, per layer, phase and role."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MatrixError, PolicyError
from ..formats.spec import FP16, get_format
from .entry import canonical_entry, check_word
from .formats import PHASES, ROLES
from .max_cost import MaxCost, limits
from .patterns import is_glob

if TYPE_CHECKING:
    from .metric_choice import MetricChoice

Key = tuple[str, str, str]
"""(layer, phase, role)."""


@dataclass(frozen=True)
class MatrixRow:
    """One measurement: ``format`` (a name or a pair) in ``layer`` costs ``cost`` [``unit``] of ``metric``.

    ``layer`` is a module's name or a prefix of names. A cost is never negative; infinity stands for
    a format that broke the model. ``in_features``, ``out_features`` and ``dtype`` (of the model, e.g.
    ``bfloat16``) describe the layer, for whoever counts its bytes; None and "" where nobody wrote them.

    Raises:
        MatrixError: an unknown word, with the nearest valid one, or a cost that is no cost.
    """

    layer: str
    phase: str
    role: str
    format: str
    cost: float
    metric: str = "cost"
    unit: str = ""
    in_features: int | None = None
    out_features: int | None = None
    dtype: str = ""

    def __post_init__(self) -> None:
        for name in ("layer", "phase", "role", "metric", "unit", "dtype"):
            value = getattr(self, name).strip()
            if len(value.splitlines()) > 1:
                raise MatrixError(f"{name} is {value!r}, which holds a line break; write it on one line")
            object.__setattr__(self, name, value)
        if not self.layer or is_glob(self.layer):
            raise MatrixError(f"layer is {self.layer!r}; write a module's name or a prefix of names, not a pattern")
        try:
            check_word("phase", self.phase, PHASES)
            check_word("role", self.role, ROLES)
            object.__setattr__(self, "format", canonical_entry(self.format.strip()))
        except PolicyError as error:
            raise MatrixError(str(error)) from None
        if isnan(self.cost) or self.cost < 0:
            raise MatrixError(f"cost is {self.cost}; a cost is a number of 0 or more")
        for name in ("in_features", "out_features"):
            size = getattr(self, name)
            if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
                raise MatrixError(f"{name} is {size!r}; write a whole number of 1 or more, or leave it empty")

    @property
    def key(self) -> Key:
        return (self.layer, self.phase, self.role)

    @property
    def identity(self) -> tuple[str, ...]:
        """What a file holds once: layer, phase, role, format and metric."""
        return (*self.key, self.format, self.metric)

    @property
    def measure(self) -> str:
        """What the cost is counted in: the unit, or the metric where no unit is given."""
        return self.unit or self.metric

    @property
    def bits_per_weight(self) -> float:
        """Storage per weight with its share of the scale; FP16 counts as 16 whatever the model's dtype."""
        weights = self.format.split("/")[0]
        return 16.0 if weights == FP16 else get_format(weights).bits_per_element


@dataclass(frozen=True)
class Choice:
    """The format chosen for one (layer, phase, role); ``cost`` is None where nothing was cheap enough."""

    layer: str
    phase: str
    role: str
    format: str
    cost: float | None


@dataclass(frozen=True)
class SensitivityMatrix:
    """The rows, and where they came from (``source`` takes no part in comparisons).

    Raises:
        MatrixError: no row at all; two rows for the same layer, phase, role and format; rows that give
            one layer of a role different sizes or dtypes.
    """

    rows: tuple[MatrixRow, ...]
    source: str = "sensitivity matrix"

    def __post_init__(self) -> None:
        if not self.rows:
            raise MatrixError(f"{self.source}: no rows; a sensitivity matrix needs at least one measurement")
        seen: dict[tuple[str, ...], MatrixRow] = {}
        about: dict[tuple[str, str], MatrixRow] = {}
        for row in self.rows:
            other = seen.setdefault((*row.key, row.format), row)
            if other is not row:
                raise MatrixError(f"{self.source}: {duplicate(row, other)}")
            first = about.setdefault((row.layer, row.role), row)
            for name in ("in_features", "out_features", "dtype"):
                if getattr(first, name) != getattr(row, name):
                    raise MatrixError(
                        f"{self.source}: {name} of layer {row.layer!r}, role {row.role}, is {getattr(row, name)!r} in "
                        f"one row and {getattr(first, name)!r} in another; write the same in all its rows"
                    )

    def __eq__(self, other: object) -> bool:
        return self.rows == other.rows if isinstance(other, SensitivityMatrix) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.rows)

    @classmethod
    def read(cls, path: str | Path, metric: MetricChoice = None) -> SensitivityMatrix:
        """Read a CSV with columns ``layer,phase,format,cost`` and optionally ``role,metric,unit`` and
        ``in_features,out_features,dtype``.

        A matrix without roles speaks about the role ``policy``. Of a file with several metrics, the rows
        of one for each phase and role are taken: ``metric`` (one for all, or by ``phase`` or
        ``phase/role``), else the profiler's cost of quantising a layer alone (``metric_choice``).

        Raises:
            MatrixError: anything unreadable; names the file and the line.
        """
        from .matrix_file import read_rows
        from .metric_choice import one_metric

        return cls(tuple(one_metric(read_rows(Path(path)), metric, str(path))), str(path))

    def write(self, path: str | Path) -> None:
        """Write all seven columns as CSV, and those that describe the layers where any row has them;
        ``read`` gives back an equal matrix.

        Raises:
            MatrixError: the file cannot be written.
        """
        from .matrix_file import write_rows

        write_rows(Path(path), self.rows)

    @cached_property
    def groups(self) -> dict[Key, tuple[MatrixRow, ...]]:
        """The rows of each (layer, phase, role), in order of appearance."""
        groups: dict[Key, list[MatrixRow]] = {}
        for row in self.rows:
            groups.setdefault(row.key, []).append(row)
        return {key: tuple(rows) for key, rows in groups.items()}

    def layers(self) -> tuple[str, ...]:
        """Layer names (or prefixes), each once, in order of appearance."""
        return tuple(dict.fromkeys(row.layer for row in self.rows))

    def measures(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """What costs are counted in, per (phase, role); see ``MatrixRow.measure``."""
        found: dict[tuple[str, str], dict[str, None]] = {}
        for row in self.rows:
            found.setdefault((row.phase, row.role), {})[row.measure] = None
        return {key: tuple(units) for key, units in found.items()}

    def choose(self, max_cost: MaxCost) -> tuple[Choice, ...]:
        """The narrowest format whose cost is at most ``max_cost``, per (layer, phase, role); else FP16.

        Narrowest means fewest bits per weight; ties go to the lower cost, then to the name. An
        infinite cost is never cheap enough. Costs of different units are never compared:
        ``max_cost`` is one number only when the whole matrix has one unit, else a mapping
        ``{"rollout": 0.02, "reward/value": 0.1}`` of phases or ``phase/role`` (which wins).

        Raises:
            PolicyError: ``max_cost`` is not a cost, mixes units, or leaves out or misnames a phase.
        """
        limit = limits(max_cost, self.measures(), self.source)
        return tuple(_choice(key, rows, limit[key[1:]]) for key, rows in self.groups.items())


def duplicate(row: MatrixRow, other: MatrixRow | None = None) -> str:
    """Words for the error about a second row of the same layer, phase, role and format; ``other``: the first."""
    remedy = "keep one"
    if other is not None and other.metric != row.metric:
        remedy = f"choose one metric or keep one (metrics {other.metric}, {row.metric})"
    return f"a second cost of {row.format} for layer {row.layer!r}, phase {row.phase}, role {row.role}; {remedy}"


def _choice(key: Key, rows: Iterable[MatrixRow], limit: float) -> Choice:
    cheap = [row for row in rows if row.cost <= limit and isfinite(row.cost)]
    if not cheap:
        return Choice(*key, format=FP16, cost=None)
    best = min(cheap, key=lambda row: (row.bits_per_weight, row.cost, row.format))
    return Choice(*key, format=best.format, cost=best.cost)


def as_matrix(matrix: SensitivityMatrix | str | Path) -> SensitivityMatrix:
    """The matrix itself, or the one read from a path."""
    if isinstance(matrix, SensitivityMatrix):
        return matrix
    if isinstance(matrix, str | Path):
        return SensitivityMatrix.read(matrix)
    raise MatrixError(f"a {type(matrix).__name__} is not a sensitivity matrix; give a CSV path or a SensitivityMatrix")
