"""From a request to a plan."""

from __future__ import annotations

from collections.abc import Mapping

from ..versions import installed_versions
from . import fused_head
from .grpo import grpo
from .persistent import released_terms
from .ppo import NOTES as PPO_NOTES
from .ppo import ppo
from .request import Request
from .roles import RoleMemory, roles_of
from .supervised import dpo, reward, sft
from .terms import Plan

_STAGES = {"ppo": ppo, "grpo": grpo, "sft": sft, "dpo": dpo, "reward": reward}
_NOTES = {"ppo": PPO_NOTES}


def plan(request: Request, roles: Mapping[str, RoleMemory] | None = None) -> Plan:
    """What the run needs, phase by phase, on one device.

    Args:
        roles: the run's models, where they are known already (:func:`roles_of`).

    Raises:
        StageError: models or sizes that do not fit.
        PolicyError: no such precision policy.
    """
    found = roles_of(request) if roles is None else roles
    persistent, instants = _STAGES[request.stage](request, found)
    notes = (*_NOTES.get(request.stage, ()), *_missing(request.stage))
    return Plan(tuple(persistent), tuple(instants), notes, tuple(released_terms(request, found)))


def _missing(stage: str) -> tuple[str, ...]:
    """What to know where the installed trl lacks the stage."""
    if stage == "ppo" and fused_head.is_used():
        trl = installed_versions(["trl"])["trl"]
        return (f"trl {trl} has no PPOTrainer: this is the plan of trl 1.12, the last that has (mx-plugin[ppo])",)
    return ()
