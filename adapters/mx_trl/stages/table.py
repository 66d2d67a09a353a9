"""The stages by name: what each is run by, and the classes of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mx_plugin.errors import nearest

from ..errors import StageError
from . import arguments
from .arguments import CommonArguments
from .compare import Stage

NAMES = ("sft", "reward", "dpo", "ppo", "grpo")


@dataclass(frozen=True)
class StageEntry:
    """``run`` trains; ``training_class`` gives the class of TRL's arguments, or says what to install."""

    run: Stage
    script_class: type[CommonArguments]
    training_class: Callable[[], type[Any]]


def stage_of(name: str) -> StageEntry:
    """A stage by its name: sft, reward, dpo, ppo, grpo.

    Raises:
        StageError: another name.
    """
    if name == "sft":
        from .sft import run_sft

        return StageEntry(run_sft, arguments.SFTScriptArguments, _trl("SFT"))
    if name == "reward":
        from .reward import run_reward

        return StageEntry(run_reward, arguments.RewardScriptArguments, _trl("Reward"))
    if name == "dpo":
        from .dpo import run_dpo

        return StageEntry(run_dpo, arguments.DPOScriptArguments, _trl("DPO"))
    if name == "grpo":
        from .grpo import run_grpo

        return StageEntry(run_grpo, arguments.GRPOScriptArguments, _trl("GRPO"))
    if name == "ppo":
        from .ppo import load_ppo, run_ppo

        return StageEntry(run_ppo, arguments.PPOScriptArguments, lambda: load_ppo()[0])
    raise StageError(f"stage {name!r} is not known: {nearest(name, NAMES)}")


def _trl(name: str) -> Callable[[], type[Any]]:
    from .trainers import load_trainer

    return lambda: load_trainer(name)[0]
