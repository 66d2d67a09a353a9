"""SFT, reward model and DPO: trainers of one process, whose methods are wrapped when their module is imported."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .actors import plain_model
from .expected import check_module
from .import_patch import Patch
from .run_spec import RunSpec

TRAINERS = {
    "train_sft": ("openrlhf.trainer.sft_trainer", "SFTTrainer", {"policy": "model"}),
    "train_rm": ("openrlhf.trainer.rm_trainer", "RewardModelTrainer", {"reward": "model"}),
    "train_dpo": ("openrlhf.trainer.dpo_trainer", "DPOTrainer", {"policy": "model", "reference": "ref_model"}),
}
"""Recipe -> module, class, and {role: attribute that holds the model}."""

_ATTRIBUTE = "_mx_books"


def trainer_patches(recipe: str, spec: RunSpec) -> dict[str, Patch]:
    """Module -> patch, of train_sft, train_rm or train_dpo."""
    name, cls, roles = TRAINERS[recipe]

    def patch(module: ModuleType) -> None:
        check_module(module)
        wrap_trainer(getattr(module, cls), roles, spec)

    return {name: patch}


def wrap_trainer(trainer: type[Any], roles: dict[str, str], spec: RunSpec) -> None:
    """Run ``fit`` under MX, book each step where the trainer logs it, and qualify its evaluations."""
    trainer.fit = _fitted(trainer.fit, roles, spec)
    trainer.save_logs_and_checkpoints = _logged(trainer.save_logs_and_checkpoints)
    trainer.evaluate = _evaluated(trainer.evaluate)


def _fitted(fit: Callable[..., Any], roles: dict[str, str], spec: RunSpec) -> Callable[..., Any]:
    @functools.wraps(fit)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        from .trainer_books import TrainerBooks

        models = {role: plain_model(getattr(self, name)) for role, name in roles.items()}
        with TrainerBooks(spec, self.strategy, models) as books:
            setattr(self, _ATTRIBUTE, books)
            try:
                return fit(self, *args, **kwargs)
            finally:
                delattr(self, _ATTRIBUTE)

    return wrapper


def _logged(save: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(save)
    def wrapper(
        self: Any, args: Any, global_step: int, step_bar: Any, logs_dict: Any = None, *more: Any, **kwargs: Any
    ) -> Any:
        logs = dict(logs_dict or {})
        getattr(self, _ATTRIBUTE).step_ended(int(global_step), logs)
        return save(self, args, global_step, step_bar, logs, *more, **kwargs)

    return wrapper


def _evaluated(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(evaluate)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        from mx_plugin.execution.phases import TRACKER

        with TRACKER.evaluating():
            return evaluate(self, *args, **kwargs)

    return wrapper
