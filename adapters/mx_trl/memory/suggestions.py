"""What would need less: the same planner, asked again with one thing changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mx_plugin.errors import MXError

from .placement import place
from .planner import plan
from .request import NO_POLICY, Request
from .roles import roles_of

_WORTH = 0.01
"""Suggestions that save less than this share of the peak are left out."""


@dataclass(frozen=True)
class Suggestion:
    """``how`` to do it; ``peak`` of the run then, ``saved`` against now, in bytes."""

    what: str
    how: str
    peak: int
    saved: int
    changes: dict[str, Any]


def suggestions(request: Request) -> list[Suggestion]:
    """What saves memory, the most first. With several devices the peak is the fullest device's.

    Raises:
        StageError: the request itself does not fit together.
    """
    now = peak(request)
    found = []
    for what, how, changes in _candidates(request):
        try:
            changed = peak(replace(request, **changes))
        except MXError:  # that change is not possible here (a policy whose formats differ, too long a context, ...)
            continue
        if now - changed > _WORTH * now:
            found.append(Suggestion(what, how, changed, now - changed, changes))
    return sorted(found, key=lambda each: -each.saved)


def peak(request: Request) -> int:
    """Bytes at the run's peak; of the fullest device where there are several."""
    made = plan(request, roles_of(request))
    return max(device.peak for device in place(made, request.devices))


def _candidates(request: Request) -> Iterator[tuple[str, str, dict[str, Any]]]:
    ppo = request.stage == "ppo"
    if request.policy != NO_POLICY and not request.release_frozen:
        yield "release frozen weights", "--release_frozen", {"release_frozen": True}
    if ppo and not request.shared_trunk:
        yield "share a trunk", "critic as a head on the policy's layers (--shared_trunk)", {"shared_trunk": True}
    if not request.lora_r:
        yield "LoRA", "--use_peft --lora_r 16", {"lora_r": 16}
        yield (
            "LoRA on packed base layers",
            "--use_peft --lora_r 16 --policy B --release_frozen",
            {"lora_r": 16, "policy": "B", "release_frozen": True},
        )
    if ppo and request.rollout_batch >= request.step_batch > 1:
        half = max(request.step_batch // 4, 1)
        yield "smaller rollout forward batch", f"--local_rollout_forward_batch_size {half}", {"rollout_batch": half}
    if not request.gradient_checkpointing:
        yield "checkpointing", "--gradient_checkpointing", {"gradient_checkpointing": True}
    if request.batch > 1 and request.batch % 2 == 0:
        changes = {"batch": request.batch // 2, "accumulation": request.accumulation * 2}
        how = "--per_device_train_batch_size {batch} --gradient_accumulation_steps {accumulation}".format(**changes)
        yield "smaller micro-batch", how, changes
    if request.dtype == "float32":
        yield "bfloat16 models", "--dtype bfloat16", {"dtype": "bfloat16"}
    if request.devices == 1 and request.stage in ("ppo", "grpo", "dpo"):
        yield "placement over 2 devices or hosts", "reference, reward model and critic elsewhere", {"devices": 2}
