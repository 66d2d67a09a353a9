"""What is exported: the model folder of a run, and the precision policy that it ran under."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mx_plugin.config import MXConfig
from mx_plugin.interfaces import Provider
from mx_plugin.precision import PolicyProvider, PrecisionPolicy
from mx_plugin.precision.provider_choice import make_provider

from ..errors import StageError
from ..evaluation.deployed import run_config

_CONFIG = "config.json"
_ADAPTER = "adapter_config.json"
_FINAL = ("checkpoints/final", "model", "final")
"""Where a run's last model is, the first that exists."""


@dataclass(frozen=True)
class ExportSource:
    """``model``: a folder that transformers (or PEFT) wrote. ``run``: the run's ``config.json``, None without a run."""

    model: Path
    run: Path | None

    def described(self) -> dict[str, Any]:
        """The run's config.json as data, empty without one.

        Raises:
            StageError: it cannot be read.
        """
        if self.run is None:
            return {}
        try:
            data: dict[str, Any] = json.loads(self.run.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StageError(f"cannot read the options of the run in {self.run}: {error}") from error
        return data

    def config(self, policy: str | None) -> MXConfig:
        """The options that the run was executed with; ``policy`` overrides its precision policy."""
        config = run_config(self.run.parent if self.run is not None else None, {})
        if policy is None:
            return config
        return config.merged({"policy": policy, "sensitivity_matrix": None, "max_cost": None})

    def provider(self, policy: str | None) -> Provider:
        """What chose the formats of the run: ``policy`` if given, else what ``config.json`` holds in full.

        Raises:
            StageError: no policy was given and the model comes from no run.
            PolicyError: no such policy.
        """
        if policy is not None:
            return make_provider(self.config(policy))
        described = self.described()
        if not described:
            raise StageError(
                f"{self.model} belongs to no run whose config.json names a precision policy: say by --policy which "
                "rollout formats to pack it in, e.g. --policy C"
            )
        kept = described.get("provider", {}).get("policy")
        if isinstance(kept, dict):
            return PolicyProvider(PrecisionPolicy.from_dict(kept))
        return make_provider(self.config(None))


def find_source(run: str | Path) -> ExportSource:
    """The model and the run's config.json that ``run`` leads to.

    ``run`` is a run folder (with ``checkpoints/final``, ``model`` or the trainer's checkpoints), its
    ``policy_<name>/``, one checkpoint, or any folder with a model.

    Raises:
        StageError: no such folder, no model in it, or several runs, of which one must be chosen.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise StageError(f"{folder} is no folder: give a run's folder, one of its checkpoints or a model folder")
    if is_model(folder):
        return ExportSource(folder, _run_above(folder))
    if folder.name.startswith("policy_") and _is_run(folder / _CONFIG):
        return ExportSource(_model_below(folder, folder.parent), folder / _CONFIG)
    return ExportSource(_model_below(folder), _run_in(folder))


def is_model(folder: Path) -> bool:
    """Whether transformers or PEFT wrote a model there: a config.json with a model type, or an adapter's."""
    return (folder / _ADAPTER).is_file() or "model_type" in _json(folder / _CONFIG)


def _is_run(file: Path) -> bool:
    return isinstance(_json(file).get("mx"), dict)


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _run_above(model: Path) -> Path | None:
    """The run that holds this model: ``<run>/model``, ``<run>/checkpoints/<one>``, ``<output>/trainer/<one>``."""
    above = model.resolve().parents
    for folder in above[:2]:
        found = _run_in(folder, must_be_one=False)
        if found is not None:
            return found
    return None


def _run_in(folder: Path, must_be_one: bool = True) -> Path | None:
    """The config.json that holds the precision policy: MXCallback's ``policy_<name>/``, else the stage's own."""
    own = folder / _CONFIG
    # policy_C.1 is an older run that a newer one moved aside.
    found = [
        file
        for file in sorted(folder.glob(f"policy_*/{_CONFIG}"))
        if _is_run(file) and not re.search(r"\.\d+$", file.parent.name)
    ]
    if len(found) > 1 and _is_run(own):
        policy = _json(own)["mx"].get("policy")
        found = [file for file in found if _json(file)["mx"].get("policy") == policy]
    if len(found) > 1 and must_be_one:
        names = ", ".join(str(file.parent) for file in found)
        raise StageError(f"{folder} holds {len(found)} runs: give the folder of one of them: {names}")
    if len(found) == 1:
        return found[0]
    return own if not found and _is_run(own) else None


def _model_below(*folders: Path) -> Path:
    """The final model of the first folder that has one, else its last checkpoint."""
    for folder in folders:
        for name in _FINAL:
            if is_model(folder / name):
                return folder / name
        checkpoints = [path for place in (folder, folder / "checkpoints") for path in place.glob("checkpoint-*")]
        numbered = {
            int(m[1]): p for p in checkpoints if (m := re.fullmatch(r"checkpoint-(\d+)", p.name)) and is_model(p)
        }
        if numbered:
            return numbered[max(numbered)]
    looked = ", ".join([*_FINAL, "checkpoint-N", "checkpoints/checkpoint-N"])
    raise StageError(
        f"{folders[0]} holds no model (looked for {looked}): train with checkpoints, or give the folder of the model"
    )
