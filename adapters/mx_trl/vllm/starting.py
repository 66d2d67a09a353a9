"""A colocated vLLM is made with an MX format that it executes by itself, where its device has one the policy wants."""

from __future__ import annotations

import functools
import logging
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
    if not getattr(args, "use_vllm", False) or getattr(args, "vllm_mode", None) != "colocate":
        return None
    if config.sensitivity_matrix and args.world_size > 1:
        log.info("vLLM's own MX formats are not used: the sensitivity matrix is read by the main rank, and only later")
        return None
    choice = own_choice(lambda: model, config)
    if choice is not None:
        _make_next_with(choice.engine_arguments(), str(getattr(model, "name_or_path", "")))
    return choice


def _make_next_with(arguments: dict[str, Any], name: str) -> None:
    """The next vLLM of this model is made with these arguments; its class is as before from then on."""
    from vllm import LLM

    original = LLM.__init__

    @functools.wraps(original)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("model") != name or kwargs.get("quantization") is not None:
            return original(self, *args, **kwargs)
        LLM.__init__ = original
        log.info("vLLM of %s is made with %s", name, arguments)
        original(self, *args, **{**kwargs, **arguments})
        reload_around_syncs(self)
        return None

    LLM.__init__ = made


def reload_around_syncs(llm: Any) -> None:
    """Weights that are sent begin a reload of this vLLM; what a sync ends with, or a generation, ends it."""
    runner = llm.llm_engine.model_executor.driver_worker.model_runner
    reload = LayerwiseReload(runner)
    runner.model.load_weights = reload.loading(runner.model.load_weights)
    for name in ("reset_prefix_cache", "generate", "chat"):
        setattr(llm, name, _after(reload.end, getattr(llm, name)))


def _after(before: Any, method: Any) -> Any:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        before()
        return method(*args, **kwargs)

    return call
