"""From a request to a plan."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import StageError
from .persistent import released_terms
from .ppo import NOTES as PPO_NOTES
from .ppo import ppo
from .request import Request
from .roles import RoleMemory, roles_of
from .supervised import dpo, reward, sft
from .terms import Plan

_STAGES = {"ppo": ppo, "sft": sft, "dpo": dpo, "reward": reward}
_NOTES = {"ppo": PPO_NOTES}


def plan(request: Request, roles: Mapping[str, RoleMemory] | None = None) -> Plan:
    """What the run needs, phase by phase, on one device.

    Args:
        roles: the run's models, where they are known already (:func:`roles_of`).

    Raises:
        StageError: models or sizes that do not fit.
        PolicyError: no such precision policy.
    """
    stage = _STAGES.get(request.stage)
    if stage is None:
        raise StageError(
            f"--stage {request.stage}: the planner has no formula for it yet; {', '.join(_STAGES)} have one"
        )
    found = roles_of(request) if roles is None else roles
    persistent, instants = stage(request, found)
    return Plan(
        tuple(persistent), tuple(instants), _NOTES.get(request.stage, ()), tuple(released_terms(request, found))
    )
