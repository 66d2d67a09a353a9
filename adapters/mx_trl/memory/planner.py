"""From a request to a plan."""

from __future__ import annotations

from collections.abc import Mapping

from ..versions import installed_versions
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


_FUSED_HEAD = ("sft", "dpo", "grpo")
"""Stages whose loss TRL 1.13 and later take inside a fused lm_head; the terms for logits here are those of 1.12."""


def _missing(stage: str) -> tuple[str, ...]:
    """What to know where the installed trl is not the one whose loops the formulas were read from."""
    trl = installed_versions(["trl"]).get("trl")
    if trl is None or tuple(int(part) for part in trl.split(".")[:2]) < (1, 13):
        return ()
    if stage == "ppo":
        return (f"trl {trl} has no PPOTrainer: this is the plan of trl 1.12, the last that has (mx-plugin[ppo])",)
    if stage in _FUSED_HEAD:
        return (
            f"logits are planned as trl 1.12 makes them; trl {trl} takes the loss inside a fused lm_head and may need "
            "several times as much for them: leave room for 9 x tokens x vocabulary x 4 bytes, or try --validate",
        )
    return ()
