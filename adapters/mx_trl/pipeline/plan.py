"""The file of a pipeline: which stages, in which order, with which options, and which models each reads."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import environ
from pathlib import Path
from typing import Any

import yaml

from mx_plugin.errors import nearest

from ..errors import StageError

STAGES = ("sft", "reward", "ppo", "dpo", "grpo")
FINAL = Path("checkpoints") / "final"
_ENTRY = {"stage", "name", "config", "options"}
_KNOWN = {"output_dir", "max_minutes", "launch", "common", "stages"}
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


@dataclass(frozen=True)
class PlannedStage:
    """One stage: ``kind`` (sft, reward, ...), its own options, and whose models it reads (names of earlier stages).

    ``model``: the policy, or the weights that a reward model starts from; ``reward``: the reward model. None where the
    options say, or nothing does.
    """

    name: str
    kind: str
    options: dict[str, Any]
    model: str | None = None
    reward: str | None = None


@dataclass(frozen=True)
class PipelinePlan:
    """What the file says. ``embedded``: the first stage names no model, so the embedded one and its data are used."""

    output_dir: Path
    stages: tuple[PlannedStage, ...]
    max_minutes: float | None = None
    launch: tuple[str, ...] = ()
    embedded: bool = False
    fingerprints: dict[str, str] = field(default_factory=dict, compare=False)

    def folder(self, name: str) -> Path:
        """A stage's run folder."""
        return self.output_dir / name

    def final(self, name: str) -> Path:
        """Where a stage leaves its model."""
        return self.folder(name) / FINAL


def read_plan(file: Path | str, output_dir: str | None = None) -> PipelinePlan:
    """Read a pipeline's YAML.

    Args:
        output_dir: instead of the file's.

    Raises:
        StageError: no such file, unknown keys or stages, names that are taken, a stage's YAML that cannot be read.
    """
    file = Path(file)
    data = _mapping(file)
    unknown = set(data) - _KNOWN
    if unknown:
        name = sorted(map(str, unknown))[0]
        raise StageError(f"{file}: unknown key {name!r}: {nearest(name, sorted(_KNOWN))}")
    output = output_dir or data.get("output_dir")
    if not output:
        raise StageError(f"{file}: no output_dir: name a folder there, or by --output_dir")
    entries = data.get("stages")
    if not isinstance(entries, list) or not entries:
        raise StageError(f"{file}: stages: expected a list such as [{{stage: sft}}, {{stage: reward}}, {{stage: ppo}}]")
    common = data.get("common") or {}
    if not isinstance(common, Mapping):
        raise StageError(f"{file}: common: expected options by name, found {common!r}")
    stages: list[PlannedStage] = []
    for number, entry in enumerate(entries, start=1):
        stages.append(_stage(entry, common, stages, file.parent, f"{file}, stage {number}"))
    embedded = "model_name_or_path" not in stages[0].options
    plan = PipelinePlan(
        Path(output),
        tuple(stages),
        _minutes(data.get("max_minutes"), file),
        _launch(data.get("launch"), file),
        embedded,
    )
    for stage in stages:
        plan.fingerprints[stage.name] = _fingerprint(stage, plan.fingerprints, embedded)
    return plan


# ---------------------------------------------------------------------------- one stage


def _stage(entry: Any, common: Mapping[str, Any], earlier: list[PlannedStage], base: Path, where: str) -> PlannedStage:
    if isinstance(entry, str):
        entry = {"stage": entry}
    if not isinstance(entry, Mapping) or set(entry) - _ENTRY:
        raise StageError(f"{where}: expected a stage's name or {', '.join(sorted(_ENTRY))}; found {entry!r}")
    kind = entry.get("stage")
    if kind not in STAGES:
        raise StageError(f"{where}: stage {kind!r} is not known: {nearest(str(kind), STAGES)}")
    name = str(entry.get("name", kind))
    if not _NAME.fullmatch(name) or name == "embedded":
        raise StageError(f"{where}: name {name!r}: a folder is named after it; letters, digits, - and _ only")
    if any(stage.name == name for stage in earlier):
        raise StageError(f"{where}: the name {name!r} is taken; give this one another by name:")
    own = entry.get("options") or {}
    if not isinstance(own, Mapping):
        raise StageError(f"{where}: options: expected options by name, found {own!r}")
    base_options = _mapping(base / str(entry["config"])) if "config" in entry else {}
    # A recipe's list of policies is for comparing them; one policy that the pipeline names wins over it.
    if "policy" in {**common, **own} or own.get("no_mx"):
        base_options.pop("policies", None)
    # A recipe begins where it would alone; in a row it begins where the stages before it ended.
    kinds = {stage.kind for stage in earlier}
    for option in ("model_name_or_path", "sft_model_path") if kinds - {"reward"} else ():
        base_options.pop(option, None)
    if "reward" in kinds:
        base_options.pop("reward_model_path", None)
    options = {str(key): _expanded(value, where) for key, value in {**base_options, **common, **own}.items()}
    _refuse_what_is_ours(options, where)
    return PlannedStage(name, str(kind), options, *_reads(str(kind), options, earlier))


def _reads(kind: str, options: Mapping[str, Any], earlier: list[PlannedStage]) -> tuple[str | None, str | None]:
    """The last policy that was trained before, and for PPO and GRPO the last reward model; what options say wins."""
    model = reward = None
    if not {"model_name_or_path", "sft_model_path"} & set(options):
        model = next((stage.name for stage in reversed(earlier) if stage.kind != "reward"), None)
    if kind in ("ppo", "grpo") and "reward_model_path" not in options and options.get("reward", "model") == "model":
        reward = next((stage.name for stage in reversed(earlier) if stage.kind == "reward"), None)
    return model, reward


def _refuse_what_is_ours(options: Mapping[str, Any], where: str) -> None:
    for name, instead in (
        ("max_minutes", "the pipeline's max_minutes is for all stages"),
        ("resume_from_checkpoint", "the pipeline resumes by itself"),
    ):
        if name in options:
            raise StageError(f"{where}: {name} is not a stage's option here: {instead}")
    policies = options.get("policies")
    if policies is not None and len(policies) != 1:
        raise StageError(f"{where}: policies {policies}: a stage of a pipeline trains once; name one by policy:")


# ---------------------------------------------------------------------------- values


def _mapping(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StageError(f"cannot read {file}: {error}") from error
    if not isinstance(data, dict):
        raise StageError(f"{file}: expected a mapping, found {type(data).__name__}")
    return data


def _expanded(value: Any, where: str) -> Any:
    """Text with ``$NAME`` and ``${NAME}`` replaced by environment variables."""
    if not isinstance(value, str):
        return value

    def known(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise StageError(f"{where}: {value!r} needs the environment variable {match[1]}, which is not set")
        return environ[match[1]]

    return _VARIABLE.sub(known, value)


def _minutes(value: Any, file: Path) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise StageError(f"{file}: max_minutes: {value!r} is not a number above 0")
    return float(value)


def _launch(value: Any, file: Path) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise StageError(f"{file}: launch: expected words such as [torchrun, --nproc_per_node, 2], found {value!r}")
    return tuple(map(str, value))


def _fingerprint(stage: PlannedStage, known: Mapping[str, str], embedded: bool) -> str:
    """Of the options and of the stages whose models are read: another one, and the stage is done again."""
    read = {role: known.get(name or "") for role, name in (("model", stage.model), ("reward", stage.reward))}
    said = json.dumps([stage.kind, stage.options, read, embedded], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()
