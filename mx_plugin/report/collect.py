"""Reads what a report shows: a results folder, a folder of run folders, or one run folder. Imports no plot library."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LedgerError, MXError
from ..experiments.errors import ExperimentError
from ..experiments.folder import DONE, ResultsFolder
from ..experiments.plan import Plan
from ..ledger.folder import was_set_aside
from ..ledger.rows import EnergyRow

CONFIG, ENERGY, METRICS = "config.json", "energy.csv", "metrics.csv"
PROFILE = Path("profile") / "profile.json"
STABILITY, ALERTS = "stability.jsonl", "alerts.jsonl"


@dataclass
class RunData:
    """One training run as its files tell. ``metrics``: column -> (step, value) where known; ``done``: done.json.

    ``stability`` is like ``metrics``, of stability.jsonl; ``alerts`` the records of alerts.jsonl; ``profile`` is
    profile/profile.json.
    """

    name: str
    seed: int
    path: Path
    control: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    energy: list[EnergyRow] = field(default_factory=list)
    metrics: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    done: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    stability: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    profile: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """Measured wall time of training: the phases' seconds, which partition it."""
        known = [row.seconds for row in self.energy if row.seconds is not None]
        return sum(known) if known else self.done.get("train_seconds") or self.done.get("seconds")


@dataclass
class ReportData:
    """Everything that a report shows. ``troubles``: what could not be read, in words."""

    title: str
    path: Path
    runs: list[RunData]
    plan: Plan | None = None
    comparison: dict[str, Any] | None = None
    start: dict[str, Any] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    def by_name(self) -> dict[str, list[RunData]]:
        """Runs by name, in the plan's order, the seeds of each together."""
        found: dict[str, list[RunData]] = {}
        for run in self.runs:
            found.setdefault(run.name, []).append(run)
        return found

    @property
    def baseline(self) -> str | None:
        return None if self.plan is None else self.plan.baseline


def collect(path: str | Path) -> ReportData:
    """Read a folder.

    Raises:
        MXError: nothing there that a report could show.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise MXError(f"{folder} is not a folder; give a results folder or a run folder")
    troubles: list[str] = []
    if (folder / "plan.json").is_file():
        data = _results(folder, troubles)
    elif (folder / ENERGY).is_file() or (_holds_a_run(folder) and not any(folder.glob(f"policy_*/{CONFIG}"))):
        run = _run(_policy_name(folder), 0, folder, troubles)
        data = ReportData(f"Run {run.name}", folder, [run], troubles=troubles)
    else:
        runs = [
            _run(_policy_name(each), 0, each, troubles)
            for each in sorted(folder.glob("policy_*"))
            if (each / CONFIG).is_file()
        ]
        data = ReportData(f"Runs in {folder.name}", folder, runs, troubles=troubles)
    if not data.runs:
        raise MXError(
            f"{folder} holds no finished run: neither plan.json with runs, nor policy_* folders, nor {CONFIG}; "
            "give the folder that mx-plugin experiment or a run wrote"
        )
    return data


def _holds_a_run(folder: Path) -> bool:
    """A run without MX has no energy.csv: its stage wrote config.json, or observers wrote their files."""
    return any((folder / name).is_file() for name in (CONFIG, PROFILE))


def _results(folder: Path, troubles: list[str]) -> ReportData:
    plan = Plan.read(folder / "plan.json")
    results = ResultsFolder(folder)
    runs = []
    for planned in plan.runs:
        where = results.run(planned)
        if where.is_dir() and (where / DONE).is_file():
            run = _run(planned.name, planned.seed, where, troubles)
            run.control = planned.control
            runs.append(run)
        else:
            troubles.append(f"{planned} is not finished and is left out")
    comparison = _comparison(folder, troubles)
    policies = {file.stem: file.read_text(encoding="utf-8") for file in sorted((folder / "policies").glob("*.yaml"))}
    start = _json(results.start / "evaluation.json", troubles)
    return ReportData(f"Experiment {folder.resolve().name}", folder, runs, plan, comparison, start, policies, troubles)


def _comparison(folder: Path, troubles: list[str]) -> dict[str, Any] | None:
    """Made anew from the evaluations, so that it never belongs to others; None where there are none."""
    from ..experiments.comparison import comparison, read_models

    try:
        results = ResultsFolder(folder)
        plan = Plan.read(results.plan_file)
        found = comparison(plan, read_models(results, plan))
        return dict(json.loads(json.dumps(found), parse_constant=lambda text: None))
    except ExperimentError as error:
        troubles.append(f"no comparison: {error}")
        return None


def _policy_name(folder: Path) -> str:
    return folder.resolve().name.removeprefix("policy_")


def _run(name: str, seed: int, path: Path, troubles: list[str]) -> RunData:
    run = RunData(name, seed, path)
    run.profile = _json(path / PROFILE, troubles) if (path / PROFILE).exists() else {}
    if run.profile and not (path / ENERGY).exists():
        # A run without MX: it has no books, and other files only where a stage wrote them.
        run.config = _json(path / CONFIG, [])
        _read_stability(run, troubles)
        return run
    run.config = _json(path / CONFIG, troubles)
    run.done = _json(path / DONE, [])
    run.evaluation = _json(path / "evaluation.json", [] if not (path / "evaluation.json").exists() else troubles)
    run.energy = list(_energy(path / ENERGY, troubles))
    run.metrics = _metrics(path / METRICS, troubles)
    _read_stability(run, troubles)
    return run


def collect_stability(path: str | Path) -> ReportData:
    """Every run with a stability record in a folder, however deep; runs that were set aside are left out.

    Raises:
        MXError: there is none.
    """
    folder = Path(path)
    troubles: list[str] = []
    runs = []
    for file in sorted(folder.rglob(STABILITY)):
        where = file.parent.relative_to(folder)
        inside = [folder.joinpath(*where.parts[: depth + 1]) for depth in range(len(where.parts))]
        if any(part.name.startswith(".") or was_set_aside(part) for part in inside):
            continue
        run = RunData("/".join(where.parts) or _policy_name(folder), 0, file.parent)
        _read_stability(run, troubles)
        runs.append(run)
    if not runs:
        raise MXError(f"{folder} holds no {STABILITY}: train with --stability, or with mx_trl's StabilityCallback")
    return ReportData(f"Stability of {folder.resolve().name}", folder, runs, troubles=troubles)


def _read_stability(run: RunData, troubles: list[str]) -> None:
    for record in _jsonl(run.path / STABILITY, troubles):
        for name, value in record.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                run.stability.setdefault(name, []).append((record["step"], float(value)))
    run.alerts = list(_jsonl(run.path / ALERTS, troubles))


def _jsonl(file: Path, troubles: list[str]) -> Iterator[dict[str, Any]]:
    """Objects with a step; a last line without its end is one that is being written, and is no trouble."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return
    except OSError as error:
        troubles.append(f"{file}: {error}")
        return
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
            if isinstance(record["step"], int):
                yield record
        except (ValueError, KeyError, TypeError):
            troubles.append(f"{file}, line {number}: no record of a step; left out")


def _json(file: Path, troubles: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        troubles.append(f"{file}: {error}")
        return {}
    return found if isinstance(found, dict) else {}


def _energy(file: Path, troubles: list[str]) -> Iterator[EnergyRow]:
    for number, record in _records(file, troubles):
        try:
            yield EnergyRow.from_csv(record)
        except LedgerError as error:
            troubles.append(f"{file}, line {number}: {error}")


def _metrics(file: Path, troubles: list[str]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for number, record in _records(file, troubles):
        try:
            step = float(record["step"])
            for name, text in record.items():
                if name != "step" and text:
                    found.setdefault(name, []).append((step, float(text)))
        except (KeyError, TypeError, ValueError) as error:
            troubles.append(f"{file}, line {number}: {error}")
    return found


def _records(file: Path, troubles: list[str]) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for number, record in enumerate(csv.DictReader(lines), start=2):
                if None in record.values() or None in record:
                    troubles.append(f"{file}, line {number}: not as many fields as the header has; left out")
                else:
                    yield number, record
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        troubles.append(f"{file}: {error}")
