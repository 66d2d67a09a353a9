"""``release_frozen=True`` in a trainer: which of its parameters nobody writes, and where they can be read again."""

from __future__ import annotations

import logging
from typing import Any

from mx_plugin.execution.engine import Engine

from .roles import Roles
from .weight_files import weight_files
from .writers import syncs_reference

log = logging.getLogger(__name__)


def release_frozen(engine: Engine, roles: Roles, trainer: Any) -> None:
    """Let the frozen layers of a trainer's models give up their full-precision weights, until the run ends.

    Called when training begins: by then the trainer has wrapped its models, made its optimiser and loaded its
    checkpoint.
    """
    engine.release(weight_files(roles.models), scoring_roles(roles), _withheld(roles, trainer))


def scoring_roles(roles: Roles) -> set[str]:
    """Reference and reward models beside a policy: TRL never trains them, though it may not freeze them either."""
    return {"reference", "reward"} & set(roles.models) if "policy" in roles.models else set()


def _withheld(roles: Roles, trainer: Any) -> dict[int, str]:
    """Parameters that something will write or may unfreeze, by id, and the reason."""
    withheld = {}
    for group in getattr(getattr(trainer, "optimizer", None), "param_groups", ()):
        for parameter in group["params"]:
            withheld[id(parameter)] = "the optimiser holds its weight"
    policy = roles.models.get("policy")
    if policy is not None and hasattr(policy, "peft_config") and getattr(trainer, "use_vllm", False):
        for parameter in policy.parameters():
            withheld[id(parameter)] = "adapters are merged into its weight at each sync to vLLM"
    if "reference" in roles.models and syncs_reference(trainer):
        for parameter in roles.models["reference"].parameters():
            withheld[id(parameter)] = "SyncRefModelCallback writes its weight"
    return withheld
