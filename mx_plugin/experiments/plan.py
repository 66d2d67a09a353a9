"""The plan of an experiment: which runs, from which start, judged how. Written before the first run.

A results folder keeps one plan. Starting again with the same plan continues; with another it is refused,
with the difference named; further runs are added only when that is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .errors import ExperimentError

PLAN_VERSION = 1

_FREE = ("command", "versions")
"""Recorded, and free to differ when an experiment is continued."""


@dataclass(frozen=True)
class PlannedRun:
    """One training run: ``name`` under ``seed``.

    ``policy`` names ``policies/<policy>.yaml``, whose SHA-256 is ``policy_sha256``. ``control`` is None for the
    main set. ``sampling_seed``: of the draws while training, when not ``seed`` itself (data order and
    initial values always go by ``seed``). ``options``: fields of MXConfig that the run overrides. ``about``: plain
    data that describes a control (bytes of both assignments, its own seed).
    """

    name: str
    policy: str
    seed: int
    policy_sha256: str = ""
    control: str | None = None
    sampling_seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        return (self.name, self.seed)

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the first run; plain data, in ``plan.json``.

    ``recipe``: where the stage's options come from and what they are. ``start``: what identifies the model that every
    run begins with. ``margin``: the non-inferiority margin, declared beforehand. ``threads``: of each run, since
    sums depend on how many there are.
    """

    stage: str
    recipe: Mapping[str, Any]
    runs: tuple[PlannedRun, ...]
    seeds: tuple[int, ...]
    num_steps: int
    baseline: str
    start: Mapping[str, Any]
    threads: int
    margin: Mapping[str, Any] = field(default_factory=dict)
    judge: str | None = None
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    version: int = PLAN_VERSION

    def __post_init__(self) -> None:
        names = [run.key for run in self.runs]
        twice = next((f"{name} seed {seed}" for name, seed in names if names.count((name, seed)) > 1), None)
        if twice:
            raise ExperimentError(f"the plan holds {twice} twice; give each policy, control and seed once")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as written to ``plan.json``."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "runs"}
        runs = [{f.name: getattr(run, f.name) for f in fields(run)} for run in self.runs]
        text = json.dumps({**plain, "runs": runs}, default=dict)
        answer: dict[str, Any] = json.loads(text)
        return answer

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str) -> Plan:
        """Read what ``to_dict`` gave.

        Raises:
            ExperimentError: another version, or data that is no plan.
        """
        if data.get("version") != PLAN_VERSION:
            raise ExperimentError(
                f"{source}: a plan of version {data.get('version')!r}, this mx-plugin reads {PLAN_VERSION}; "
                "choose another output folder"
            )
        try:
            known = {f.name for f in fields(cls)}
            runs = tuple(PlannedRun(**run) for run in data["runs"])
            plain = {key: value for key, value in data.items() if key in known and key not in ("runs", "seeds")}
            return cls(**plain, runs=runs, seeds=tuple(data["seeds"]))
        except (KeyError, TypeError) as error:
            raise ExperimentError(
                f"{source} is no plan of an experiment ({error}); choose another output folder, or remove it"
            ) from error

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan of a results folder.

        Raises:
            ExperimentError: it cannot be read.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ExperimentError(
                f"cannot read the plan {path}: {error}; choose another output folder, or restore that file"
            ) from error
        if not isinstance(data, dict):
            raise ExperimentError(f"{path} is no plan of an experiment; choose another output folder")
        return cls.from_dict(data, str(path))

    def named(self, name: str) -> tuple[PlannedRun, ...]:
        """The runs of that name, one per seed."""
        return tuple(run for run in self.runs if run.name == name)


def settle(there: Plan | None, asked: Plan, *, add: bool) -> Plan:
    """The plan that holds from now on: the one that is there, with ``asked``'s further runs if ``add``.

    Raises:
        ExperimentError: what is asked for differs from what is there; names every difference.
    """
    if there is None:
        return asked
    differing = plan_differences(there, asked)
    if differing:
        raise ExperimentError(
            "the output folder holds another experiment: " + "; ".join(differing) + ". Give the same command to "
            "continue it, or another --output"
        )
    known = {run.key for run in there.runs}
    further = tuple(run for run in asked.runs if run.key not in known)
    if further and not add:
        raise ExperimentError(
            f"the plan in the output folder does not hold {', '.join(map(str, further))}; add to it with --add, or "
            "give another --output"
        )
    seeds = (*there.seeds, *(seed for seed in asked.seeds if seed not in there.seeds)) if further else there.seeds
    return replace(there, runs=(*there.runs, *further), seeds=seeds)


def plan_differences(there: Plan, asked: Plan) -> list[str]:
    """In words, what two plans disagree on; runs that only one of them holds are no disagreement."""
    found = []
    old, new = there.to_dict(), asked.to_dict()
    for plain in (old, new):  # its options are compared, not the words that gave them
        plain["recipe"] = plain["recipe"].get("options", {})
        plain["start"].pop("model", None)  # a path may have moved; the weights' SHA-256 tells
    for name in old:
        if name not in (*_FREE, "runs", "seeds"):
            found += _differences(name, old[name], new[name])
    planned = {(run["name"], run["seed"]): run for run in old["runs"]}
    for run in new["runs"]:
        before = planned.get((run["name"], run["seed"]))
        if before is not None:
            found += _differences(f"run {run['name']} seed {run['seed']}", before, run)
    return found


def _differences(where: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys: Sequence[str] = [*old, *(key for key in new if key not in old)]
        return [text for key in keys for text in _differences(f"{where}.{key}", old.get(key), new.get(key))]
    return [] if old == new else [f"{where} was {old!r}, now {new!r}"]
