"""What this adapter takes for granted about OpenRLHF's classes: names and parameters, checked before each run."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from .errors import LaunchError

Methods = dict[str, tuple[str, ...]]
"""Method -> the parameters that it must have, in their order; more may follow."""

ACTORS: dict[str, dict[str, Methods]] = {
    "openrlhf.trainer.ray.launcher": {
        "ReferenceModelActor": {"init_model_from_pretrained": ("self", "strategy", "pretrain")},
        "RewardModelActor": {"init_model_from_pretrained": ("self", "strategy", "pretrain")},
        "BaseModelActor": {"execute_batch": ("self", "method_name", "all_data", "start_idx", "end_idx")},
        "RayActorGroup": {"async_run_method": ("self", "method_name")},
    },
    "openrlhf.trainer.ray.ppo_actor": {
        "PolicyModelActor": {
            "init_model_from_pretrained": ("self", "strategy", "pretrain", "max_steps", "vllm_engines"),
            "fit": ("self", "kl_ctl"),
        },
    },
    "openrlhf.trainer.ray.ppo_critic": {
        "CriticModelActor": {
            "init_model_from_pretrained": ("self", "strategy", "pretrain", "max_steps"),
            "fit": ("self",),
        },
    },
    "openrlhf.trainer.ray.vllm_engine": {"RolloutRayActor": {"__init__": ("self",)}},
    "openrlhf.trainer.ray.vllm_worker_wrap": {
        "WorkerWrap": {
            "update_weight": ("self", "name", "dtype", "shape", "empty_cache"),
            "update_weight_cuda_ipc": ("self", "name", "dtype", "shape", "ipc_handles", "empty_cache"),
        },
    },
    "openrlhf.trainer.ppo_trainer": {
        "BasePPOTrainer": {
            "train_step": ("self", "rollout_samples", "global_step"),
            "ppo_train": ("self", "global_steps"),
            "broadcast_to_vllm": ("self",),
        },
        "PPOTrainer": {"fit": ("self", "global_step")},
    },
}
"""Of train_ppo_ray."""

TRAINERS: dict[str, dict[str, Methods]] = {
    f"openrlhf.trainer.{module}": {
        cls: {
            "fit": ("self", "args", "consumed_samples"),
            "save_logs_and_checkpoints": ("self", "args", "global_step", "step_bar", "logs_dict"),
            "evaluate": ("self", evaluated),
        },
    }
    for module, cls, evaluated in (
        ("sft_trainer", "SFTTrainer", "eval_dataloader"),
        ("rm_trainer", "RewardModelTrainer", "eval_dataloader"),
        ("dpo_trainer", "DPOTrainer", "eval_dataloader"),
    )
}
"""Of train_sft, train_rm and train_dpo."""

EXPECTED = {**ACTORS, **TRAINERS}


def check_module(module: ModuleType) -> None:
    """Compare a loaded module with what is expected of it.

    Raises:
        LaunchError: a class, method or parameter is missing or stands elsewhere.
    """
    for name, methods in EXPECTED[module.__name__].items():
        cls = plain_class(getattr(module, name, None))
        for method, wanted in methods.items():
            function = getattr(cls, method, None)
            found = tuple(inspect.signature(function).parameters) if callable(function) else ()
            if found[: len(wanted)] != wanted:
                raise LaunchError(
                    f"{module.__name__}.{name}.{method}({', '.join(found)}) is not what this adapter follows, "
                    f"({', '.join(wanted)}): this release of openrlhf is not supported"
                )


def plain_class(cls: Any) -> Any:
    """The class as it was written: what ``ray.remote`` made of it keeps it."""
    metadata = getattr(cls, "__ray_metadata__", None)
    if metadata is None:
        return cls
    modified = metadata.modified_class
    return modified.__dict__.get("__ray_actor_class__", modified)
