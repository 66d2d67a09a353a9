"""What an evaluation needs to know: the recipe's prompts, lengths and reward, and how many prompts to answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mx_plugin.errors import nearest
from mx_plugin.experiments.plan import Plan

from ..errors import StageError
from ..prompts import read_rows


@dataclass(frozen=True)
class EvaluationSettings:
    """How every model of an experiment is evaluated; the same for all of them.

    ``model``, prompts, ``response_length``, ``temperature``, ``reward`` and ``end_token`` are the recipe's unless the
    plan's ``evaluation`` says otherwise. ``num_prompts`` held-out prompts are answered, one sample each. ``text``: a
    file (.txt, .jsonl, either with .gz) whose perplexity is measured on ``text_tokens`` tokens; None measures none.
    ``dtype`` is that of the policies, as they were trained; judge and reward model are always float32. ``backend``
    replaces the run's own for the deployed form, e.g. where its board is not at hand.
    """

    model: str
    dataset: str
    judge: str
    prompt_from: str = "prompt"
    prompt_words: int = 12
    dataset_split: str = "train"
    dataset_config: str | None = None
    training_prompts: int | None = None
    held_out: int = 0
    max_prompt_length: int | None = None
    response_length: int = 64
    temperature: float = 1.0
    end_token: str = "auto"
    reward: str | None = None
    reward_model: str | None = None
    dtype: str = "float32"
    num_prompts: int = 128
    batch_size: int = 32
    seed: int = 0
    text: str | None = None
    text_tokens: int = 8192
    backend: str | None = None
    clip: float = 0.2

    def __post_init__(self) -> None:
        for name in ("num_prompts", "batch_size", "response_length", "text_tokens"):
            if getattr(self, name) < 1:
                raise StageError(f"evaluation: {name} is {getattr(self, name)}; give 1 or more")
        if self.temperature < 0:
            raise StageError(f"evaluation: temperature is {self.temperature}; give 0 (greedy) or more")


_FROM_RECIPE = {
    "model_name_or_path": "model",
    "sft_model_path": "model",
    "dataset_name": "dataset",
    "dataset_config": "dataset_config",
    "dataset_train_split": "dataset_split",
    "prompt_from": "prompt_from",
    "prompt_words": "prompt_words",
    "num_prompts": "training_prompts",
    "num_eval_prompts": "held_out",
    "max_prompt_length": "max_prompt_length",
    "response_length": "response_length",
    "max_completion_length": "response_length",
    "temperature": "temperature",
    "end_token": "end_token",
    "reward": "reward",
    "reward_model_path": "reward_model",
    "dtype": "dtype",
    "cliprange": "clip",
    "epsilon": "clip",
}
"""Options of the stages -> fields. The recipe's ``num_prompts`` says which prompts were trained on."""

_TRAINERS_DEFAULTS = ("response_length", "max_completion_length", "temperature", "cliprange", "epsilon")
_JUDGES = "e.g. gsm8k, reading_ease, rule:name=sentiment, preference:pairs=FILE, likelihood:model=FOLDER"


def settings_of(plan: Plan, results: Path | None = None, **overrides: Any) -> EvaluationSettings:
    """From the plan: TRL's defaults, the recipe's options, ``start``, ``evaluation``, then ``overrides``.

    Where no judge is named it is the one that fits the data (:func:`default_judge`).

    Args:
        results: the results folder; paths of the embedded model that moved with it are found there.

    Raises:
        StageError: no model or prompts; no judge that fits; an option that does not exist.
    """
    options = {**_defaults_of(plan.stage), **plan.recipe.get("options", plan.recipe)}
    given = {_FROM_RECIPE[k]: v for k, v in options.items() if k in _FROM_RECIPE and v is not None}
    if plan.start.get("model"):
        given["model"] = str(plan.start["model"])
    _embedded(given, plan, results)
    if plan.judge:
        given["judge"] = plan.judge
    known = [f.name for f in fields(EvaluationSettings)]
    for source in (plan.evaluation, overrides):
        for name, value in source.items():
            if name not in known:
                raise StageError(f"evaluation: unknown option {name!r}: {nearest(name, known)}")
            if value is not None:
                given[name] = value
    for name, remedy in (
        ("model", "the plan names no model"),
        ("dataset", "the plan's recipe names no prompts (dataset_name)"),
    ):
        if name not in given:
            raise StageError(f"evaluation: {remedy}")
    if "judge" not in given:
        row = next(iter(read_rows(given["dataset"], given.get("dataset_split", "train"), given.get("dataset_config"))))
        given["judge"] = default_judge(given.get("reward"), tuple(row), given["dataset"])
    return EvaluationSettings(**given)


def _embedded(given: dict[str, Any], plan: Plan, results: Path | None) -> None:
    """The embedded model's prompts, reward model and judge, where the recipe names none."""
    folder = Path(str(plan.recipe.get("embedded_dir", "")))
    if results is not None and not folder.is_dir():
        folder = results / "start" / "embedded"
    if "dataset" in given or not (folder / "prompts.jsonl").is_file():
        return
    given["dataset"] = str(folder / "prompts.jsonl")
    if not Path(given["model"]).is_dir():
        given["model"] = str(folder / "policy")
    if given.get("reward", "embedded") == "embedded":
        given["reward"], given["reward_model"] = "embedded", str(folder / "reward")


def _defaults_of(stage: str) -> Mapping[str, Any]:
    """TRL's own defaults, which a recipe need not repeat."""
    if stage == "ppo":
        from ..stages.ppo import load_ppo

        known = load_ppo()[0].__dataclass_fields__
    else:
        from trl import GRPOConfig

        known = GRPOConfig.__dataclass_fields__
    return {name: known[name].default for name in _TRAINERS_DEFAULTS if name in known}


def default_judge(reward: str | None, columns: tuple[str, ...], dataset: str) -> str:
    """A judge that fits the data and is not the training reward; what an experiment takes when none is named.

    Args:
        reward: the recipe's: None or ``embedded`` for the embedded model.
        columns: of the prompts' data set.

    Raises:
        StageError: nothing fits; one has to be chosen.
    """
    if {"question", "answer"} <= set(columns):
        return "gsm8k"
    if reward in (None, "embedded"):
        return "rule:name=sentiment"
    if {"chosen", "rejected"} <= set(columns):
        return f"preference:pairs={dataset}"
    if reward in ("plain_words",) or str(reward).startswith("length:"):
        return "reading_ease"
    raise StageError(f"no judge fits the reward {reward} on {dataset} by itself: choose one by --judge, {_JUDGES}")
