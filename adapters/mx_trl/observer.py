"""``Observer``: a callback that is there for the whole of ``train()``, knows its trainer, and sees phases.

What measures training but does not change it (profiler, stability dashboard) derives from it; it works beside an
MXCallback and without one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from mx_plugin.errors import MXError
from mx_plugin.execution.phases import TRACKER

from .generation import backward_phase, evaluation_phase, rollout_phase
from .roles import Roles, find_roles
from .train_wrap import wrap_instance, wrap_trainers
from .writers import refuse_reentrant_checkpointing

log = logging.getLogger(__name__)


class Observer(TrainerCallback):
    """Base class of what observes a run; ``callbacks=[MyObserver()]`` is all there is to do.

    Callbacks stand in this order while ``train()`` lasts: those that take up a checkpoint, MXCallback, observers, the
    others. So an observer reads what MXCallback added to ``logs``, and what it adds itself reaches every reporter.
    """

    def __init__(self) -> None:
        wrap_trainers()

    @contextmanager
    def observing(self, trainer: Any) -> Iterator[None]:
        """Entered around one ``train()``, and left when it returns or raises. To be overridden.

        Inside, ``mx_plugin.execution.phases.TRACKER`` tells phases to whoever subscribes, whether the trainer has an
        MXCallback or not; that one's session, if any, is entered before and left after.
        """
        yield


def attach_observer(trainer: Any, observer: Observer) -> None:
    """The explicit form, for a trainer that does not inherit ``transformers.Trainer.train``."""
    trainer.add_callback(observer)
    wrap_instance(trainer)


@contextmanager
def observed(trainer: Any, observers: list[Observer], *, phases_known: bool) -> Iterator[None]:
    """Enter the observers' ``observing`` in the order of the trainer's callbacks.

    ``phases_known``: an MXCallback follows the phases already.
    """
    with ExitStack() as stack:
        if not phases_known:
            stack.enter_context(following_phases(trainer, find_roles(trainer)))
        for observer in observers:
            stack.enter_context(observer.observing(trainer))
        yield


@contextmanager
def following_phases(trainer: Any, roles: Roles) -> Iterator[None]:
    """Tell the tracker the phases of a trainer whose layers are not adopted.

    A pass is seen by its model's, or its backbone's, forward: PPO calls the backbones of reward model and critic
    themselves.
    """
    try:
        refuse_reentrant_checkpointing(trainer, roles.models)
    except MXError as error:
        log.warning("the first forward of a checkpointed part counts as 'reward': %s", error)
    with ExitStack() as stack:
        for module in _entrances(roles):
            stack.callback(module.register_forward_pre_hook(_saw_forward).remove)
        stack.enter_context(evaluation_phase(trainer))
        stack.enter_context(backward_phase(trainer))
        policy = roles.models.get("policy")
        if policy is not None:
            stack.enter_context(rollout_phase(policy, lambda *_: None))
        rest = _RestAtStepEnd()
        trainer.callback_handler.callbacks.insert(0, rest)
        stack.callback(trainer.callback_handler.callbacks.remove, rest)
        yield


def _entrances(roles: Roles) -> list[torch.nn.Module]:
    found: dict[int, torch.nn.Module] = {}
    for model in roles.models.values():
        for module in (model, getattr(model, "base_model", None)):
            if isinstance(module, torch.nn.Module):
                found.setdefault(id(module), module)
    return list(found.values())


def _saw_forward(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
    grad = torch.is_grad_enabled()
    if grad is not TRACKER.grad:
        TRACKER.saw_forward(grad)


class _RestAtStepEnd(TrainerCallback):
    """What runs between two steps belongs to no phase."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        TRACKER.rest()
