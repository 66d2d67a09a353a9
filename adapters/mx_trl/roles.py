"""Whose model is it: from a trainer's attributes to the roles policy, value, reference, reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from mx_plugin.errors import AdoptionError
from mx_plugin.execution.phases import GRADIENT, ROLLOUT


@dataclass(frozen=True)
class Roles:
    """The models of a trainer by role, and where its log-probs of the policy come from.

    ``logprob_phase``: PPO's old log-probs are the sampler's own scores (``rollout``); every other
    trainer computes them on the policy (``gradient``). ``reference_is_policy``: the reference pass
    runs on the policy, with its adapters off or, where TRL has made one, with ``reference_adapter``.
    """

    models: dict[str, nn.Module]
    logprob_phase: str
    reference_is_policy: bool
    reference_adapter: str | None = None


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
    policy, value = getattr(model, "policy", None), getattr(model, "value_model", None)
    if isinstance(policy, nn.Module):
        models["policy"] = policy
        if isinstance(value, nn.Module):
            models["value"] = value
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
        reference_adapter=_reference_adapter(trainer, policy),
    )


def _reference_adapter(trainer: Any, policy: nn.Module | None) -> str | None:
    """PPO is told its name; the newer trainers keep a copy of an adapter that they were given as ``ref``."""
    named = getattr(trainer, "ref_adapter_name", None)
    if named is not None:
        return str(named)
    return "ref" if "ref" in (getattr(policy, "peft_config", None) or {}) else None


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
