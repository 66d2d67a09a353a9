"""Whose model is it: from a trainer's attributes to the roles policy, value, reference, reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mx_plugin.errors import AdoptionError
from mx_plugin.execution.phases import GRADIENT, ROLLOUT
from torch import nn


@dataclass(frozen=True)
class Roles:
    """The models of a trainer by role, and where its log-probs of the policy come from.

    ``logprob_phase``: PPO's old log-probs are the sampler's own scores (``rollout``); every other
    trainer computes them on the policy (``gradient``). ``reference_is_policy``: the reference pass
    runs on the policy with its adapters off.
    """

    models: dict[str, nn.Module]
    logprob_phase: str
    reference_is_policy: bool


def find_roles(trainer: Any) -> Roles:
    """Name the models of a trl or transformers trainer.

    Raises:
        AdoptionError: the trainer has no model.
    """
    model = _unwrap(trainer, getattr(trainer, "model", None))
    if model is None:
        raise AdoptionError(f"{type(trainer).__name__} has no model to adopt")
    family = {cls.__name__ for cls in type(trainer).__mro__}
    models: dict[str, nn.Module] = {}
    if isinstance(getattr(model, "policy", None), nn.Module):
        models["policy"] = model.policy
        if isinstance(getattr(model, "value_model", None), nn.Module):
            models["value"] = model.value_model
    else:
        models["reward" if "RewardTrainer" in family else "policy"] = model
    reference = _unwrap(trainer, getattr(trainer, "ref_model", None))
    if reference is not None and reference is not model:
        models["reference"] = reference
    reward = _reward_model(trainer)
    if reward is not None:
        models.setdefault("reward", reward)
    policy = models.get("policy")
    return Roles(
        models=models,
        logprob_phase=ROLLOUT if "PPOTrainer" in family else GRADIENT,
        reference_is_policy=reference is None and policy is not None and hasattr(policy, "peft_config"),
    )


def _unwrap(trainer: Any, model: Any) -> nn.Module | None:
    if not isinstance(model, nn.Module):
        return None
    accelerator = getattr(trainer, "accelerator", None)
    unwrapped = accelerator.unwrap_model(model) if accelerator is not None else model
    return unwrapped if isinstance(unwrapped, nn.Module) else model


def _reward_model(trainer: Any) -> nn.Module | None:
    """PPO's ``reward_model``, or the modules among ``reward_funcs`` of GRPO, RLOO and OnlineDPO."""
    single = getattr(trainer, "reward_model", None)
    if isinstance(single, nn.Module):
        return _unwrap(trainer, single)
    functions = getattr(trainer, "reward_funcs", None) or []
    modules = [f for f in (functions if isinstance(functions, list) else [functions]) if isinstance(f, nn.Module)]
    if not modules:
        return None
    return modules[0] if len(modules) == 1 else nn.ModuleList(modules)
