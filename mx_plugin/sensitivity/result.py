"""What a profile found: rows of a sensitivity matrix, costs of whole models, and how good the fast estimate is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..precision.matrix import MatrixRow, SensitivityMatrix
from ..precision.matrix_file import write_rows
from ..precision.metric_choice import MetricChoice, one_metric
from .errors import ProfileError


@dataclass(frozen=True)
class WholeCost:
    """What it costs to quantise every profiled layer of a role at once."""

    phase: str
    role: str
    format: str
    metric: str
    cost: float
    unit: str


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation of the fast estimate with the exact cost, over layers and formats.

    ``all_formats`` over everything; ``by_format`` over the layers of each. None: too few values, or all alike.
    """

    phase: str
    role: str
    metric: str
    all_formats: float | None
    by_format: Mapping[str, float | None]
    pairs: int


@dataclass(frozen=True)
class Profile:
    """The result. ``rows`` hold every metric; ``matrix()`` the one that policies read.

    ``source``: the file in which it stands; it takes no part in comparisons.
    """

    rows: tuple[MatrixRow, ...]
    whole: tuple[WholeCost, ...] = ()
    correlations: tuple[RankCorrelation, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    source: str = field(default="profile", compare=False)

    def matrix(self, metric: MetricChoice = None) -> SensitivityMatrix:
        """The sensitivity matrix of one metric for each phase and role, as ``SensitivityMatrix.read`` picks it."""
        return SensitivityMatrix(tuple(one_metric(self.rows, metric, self.source)), self.source)

    def rows_of(self, metric: str, *, phase: str = "rollout", role: str = "policy") -> tuple[MatrixRow, ...]:
        """The rows of one metric, layer by layer."""
        return tuple(row for row in self.rows if (row.phase, row.role, row.metric) == (phase, role, metric))

    def costs(self, metric: str, *, phase: str = "rollout", role: str = "policy") -> dict[tuple[str, str], float]:
        """(layer, format) -> cost in one metric."""
        return {(row.layer, row.format): row.cost for row in self.rows_of(metric, phase=phase, role=role)}

    def write(self, path: str | Path) -> Path:
        """Write the CSV and, beside it, ``<name>.json`` with everything else; returns the latter's path.

        Each file appears whole or not at all. The CSV comes last: where it is, the other is.

        Raises:
            ProfileError: they cannot be written.
        """
        path = Path(path)
        facts = facts_path(path)
        plain = {
            "identity": self.identity,
            "whole": [asdict(cost) for cost in self.whole],
            "rank_correlation": [asdict(c) for c in self.correlations],
            "left_out": list(self.left_out),
        }
        try:
            _replace(facts, lambda to: to.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", "utf-8"))
            _replace(path, lambda to: write_rows(to, self.rows))
        except OSError as error:
            raise ProfileError(f"cannot write {path}: {error.strerror or error}; choose another output") from error
        return facts

    @classmethod
    def read(cls, path: str | Path) -> Profile:
        """What :meth:`write` wrote.

        Raises:
            ProfileError: the JSON file beside the CSV is missing or damaged.
            MatrixError: the CSV is.
        """
        from ..precision.matrix_file import read_rows

        path = Path(path)
        try:
            plain = json.loads(facts_path(path).read_text("utf-8"))
            whole = tuple(WholeCost(**cost) for cost in plain["whole"])
            correlations = tuple(RankCorrelation(**c) for c in plain["rank_correlation"])
            identity, left_out = dict(plain["identity"]), tuple(plain["left_out"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProfileError(f"{facts_path(path)} is missing or damaged ({error}); profile anew") from error
        return cls(tuple(read_rows(path)), whole, correlations, identity, left_out, str(path))


def facts_path(path: Path) -> Path:
    """``sensitivity_matrix.json`` for ``sensitivity_matrix.csv``."""
    return path.with_suffix(".json") if path.suffix != ".json" else path.with_name(path.name + ".facts.json")


def _replace(path: Path, write: Any) -> None:
    new = path.with_name(path.name + ".new")
    write(new)
    with new.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(new, path)
