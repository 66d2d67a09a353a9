"""What is put in place of OpenRLHF's Ray classes in the driver, before any actor is made."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from .actors import MODEL_ACTORS, mx_actor
from .controller import mx_trainer
from .errors import LaunchError
from .expected import check_module, plain_class
from .import_patch import Patch
from .rollout_actor import mx_rollout_actor
from .run_spec import RunSpec

MODULES = {
    "openrlhf.trainer.ray.launcher": ("ReferenceModelActor", "RewardModelActor"),
    "openrlhf.trainer.ray.ppo_actor": ("PolicyModelActor",),
    "openrlhf.trainer.ray.ppo_critic": ("CriticModelActor",),
    "openrlhf.trainer.ray.vllm_engine": ("RolloutRayActor",),
    "openrlhf.trainer.ppo_trainer": ("PPOTrainer",),
}
"""Module -> the Ray classes in it that are replaced."""


def ray_patches(spec: RunSpec) -> dict[str, Patch]:
    """Module -> patch, of train_ppo_ray."""
    return {module: _patch(names, spec) for module, names in MODULES.items()}


def _patch(names: tuple[str, ...], spec: RunSpec) -> Patch:
    def patch(module: ModuleType) -> None:
        check_module(module)
        for name in names:
            setattr(module, name, remade(getattr(module, name), partial(_subclass, name, spec)))

    return patch


def _subclass(name: str, spec: RunSpec, original: type[Any]) -> type[Any]:
    if name in MODEL_ACTORS:
        return mx_actor(original, MODEL_ACTORS[name], spec)
    return mx_rollout_actor(original, spec) if name == "RolloutRayActor" else mx_trainer(original, spec)


def remade(actor_class: Any, subclass: Callable[[type[Any]], type[Any]]) -> Any:
    """A Ray actor class made of a subclass of another's plain class, with the same resources.

    Raises:
        LaunchError: ``actor_class`` is no Ray actor class, or Ray keeps the plain class elsewhere.
    """
    import ray

    original = plain_class(actor_class)
    metadata = getattr(actor_class, "__ray_metadata__", None)
    if metadata is None or original is metadata.modified_class:
        raise LaunchError(
            f"ray {ray.__version__} keeps the class behind {actor_class!r} where it is not known: install the ray "
            "that this openrlhf asks for"
        )
    made = subclass(original)
    resources = {name: getattr(metadata, name, None) for name in ("num_cpus", "num_gpus", "resources")}
    given = {name: value for name, value in resources.items() if value is not None}
    return ray.remote(**given)(made) if given else ray.remote(made)
