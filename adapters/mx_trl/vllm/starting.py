"""A colocated vLLM is made with an MX format that it executes by itself, where its device has one the policy wants."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from torch import nn

from mx_plugin.config import MXConfig
from mx_vllm.choice import OwnChoice, own_choice
from mx_vllm.reload import LayerwiseReload

log = logging.getLogger(__name__)


def start_with_own_formats(args: Any, model: nn.Module, config: MXConfig) -> OwnChoice | None:
    """Have the vLLM that a trainer is about to make execute what it can by itself.

    Args:
        args: of the trainer, which has not made its vLLM yet.
        model: its policy.

    Returns:
        what vLLM will execute by itself; None if nothing, or if it is not colocated.
    """
    _forget_pending()
    if not getattr(args, "use_vllm", False) or getattr(args, "vllm_mode", None) != "colocate":
        return None
    if config.sensitivity_matrix and args.world_size > 1:
        log.info("vLLM's own MX formats are not used: the sensitivity matrix is read by the main rank, and only later")
        return None
    choice = own_choice(lambda: model, config)
    if choice is not None:
        _make_next_with(choice, str(getattr(model, "name_or_path", "")))
    return choice


_pending: list[Callable[[], None]] = []
"""What puts vLLM's class back, while an engine with formats of its own is still to be made."""


def _forget_pending() -> None:
    while _pending:
        _pending.pop()()


def _make_next_with(choice: OwnChoice, name: str) -> None:
    """The next vLLM of this model is made so; its class is as before from then on."""
    from vllm import LLM

    original = LLM.__init__

    @functools.wraps(original)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("model") != name:
            return original(self, *args, **kwargs)
        _forget_pending()
        if kwargs.get("quantization") is not None:
            return original(self, *args, **kwargs)
        arguments = choice.engine_arguments()
        log.info("vLLM of %s is made with %s", name, arguments)
        original(self, *args, **{**kwargs, **arguments})
        choice.warn_of_others(reload_around_syncs(self).executed)
        return None

    LLM.__init__ = made
    _pending.append(lambda: setattr(LLM, "__init__", original))


def reload_around_syncs(llm: Any) -> LayerwiseReload:
    """Weights that are sent begin a reload of this vLLM; what a sync ends with, or a generation, ends it."""
    reload = LayerwiseReload(llm.llm_engine.model_executor.driver_worker.model_runner)
    reload.model.load_weights = reload.loading(reload.model.load_weights)
    for method in ("reset_prefix_cache", "generate", "chat"):
        setattr(llm, method, _after(reload.end, getattr(llm, method)))
    llm.mx_reload = reload
    return reload


def reload_of(llm: Any) -> LayerwiseReload | None:
    """Of a vLLM that was made with formats of its own, by the above."""
    return getattr(llm, "mx_reload", None)


def _after(before: Any, method: Any) -> Any:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        before()
        return method(*args, **kwargs)

    return call
