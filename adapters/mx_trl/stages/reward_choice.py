"""Which reward a stage trains on: the embedded model, a reward model, or a rule."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import StageError
from ..rewards import Rule, find_rule
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
