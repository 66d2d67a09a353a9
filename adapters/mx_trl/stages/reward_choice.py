"""Which reward a stage trains on: the embedded model, a reward model, or a rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import StageError
from ..rewards import Rule, columns_of, find_rule
from ..rewards.columns import prompt_columns
from ..rewards.shaping import ShapedRule, Shaping
from .arguments import StageArguments
from .preparation import Prepared


@dataclass(frozen=True)
class RewardChoice:
    """Either ``path``, of a reward model, or ``rule``. ``users`` is False for the embedded reward model."""

    path: str | None = None
    rule: Rule | None = None
    users: bool = True


def choose_reward(name: str | None, model_path: str | None, prepared: Prepared) -> RewardChoice:
    """What ``--reward`` means; without it a given reward model, else (for the embedded policy) the embedded one.

    Raises:
        StageError: an unknown rule, a reward model without its path, or no reward at all.
    """
    embedded = prepared.embedded
    if name is None:
        name = "model" if model_path else "embedded" if prepared.policy_is_embedded else None
    if name is None:
        raise StageError(
            f"no reward for {prepared.policy_path}: give --reward_model_path, or a rule such as --reward sentiment"
        )
    if name == "embedded" and embedded is not None:
        return RewardChoice(path=str(embedded.reward), users=False)
    if name != "model":
        return RewardChoice(rule=find_rule(name))
    if not model_path:
        raise StageError("--reward model needs --reward_model_path: a folder or hub id of a sequence classifier")
    return RewardChoice(path=model_path)


def shaping_of(script: StageArguments) -> Shaping | None:
    """What ``--normalise_reward`` and ``--clip_reward`` ask for; None for neither.

    Raises:
        StageError: a clip that is not above 0.
    """
    if not script.normalise_reward and script.clip_reward is None:
        return None
    return Shaping(script.normalise_reward, script.clip_reward)


def shaped(rule: Rule, shaping: Shaping | None) -> Rule:
    """The rule, with its scores shaped if there is a shaping."""
    return rule if shaping is None else ShapedRule(rule, shaping)


def columns_for(rule: Rule | None, script: StageArguments, prepared: Prepared) -> dict[str, list[Any]]:
    """What the rule needs from the data set, one value per prompt; empty for most.

    Raises:
        StageError: the data set lacks a column, or has two answers to one prompt.
    """
    if rule is None or not columns_of(rule):
        return {}
    if script.dataset_name is None:
        raise StageError(f"--reward {script.reward} needs the column {columns_of(rule)[0]!r}: give --dataset_name")
    return prompt_columns(
        prepared.prompts,
        columns_of(rule),
        script.dataset_name,
        script.prompt_from,
        split=script.dataset_train_split,
        config=script.dataset_config,
        words=script.prompt_words,
    )
