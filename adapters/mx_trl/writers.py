"""Writes to weights that torch's own hooks do not show: PEFT merges and reference syncs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from mx_plugin.errors import AdoptionError


@contextmanager
def peft_writes(models: Mapping[str, nn.Module], invalidate: Callable[[], None]) -> Iterator[None]:
    """Call ``invalidate`` after any ``merge`` or ``unmerge`` of a PEFT layer in ``models``.

    In bfloat16 a small adapter changes few bits of the base weight, so a sampled fingerprint alone
    could miss it.
    """
    patched: list[tuple[type, str, Any]] = []
    owners = {
        cls
        for model in models.values()
        for module in model.modules()
        if hasattr(module, "base_layer")
        for cls in type(module).__mro__
        if {"merge", "unmerge"} & cls.__dict__.keys()
    }
    for cls in owners:
        for name in ("merge", "unmerge"):
            if name in cls.__dict__:
                original = cls.__dict__[name]
                patched.append((cls, name, original))
                setattr(cls, name, _announcing(original, invalidate))
    try:
        yield
    finally:
        for cls, name, original in patched:
            setattr(cls, name, original)


def _announcing(original: Callable[..., Any], invalidate: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        finally:
            invalidate()

    return wrapper


def syncs_reference(trainer: Any) -> bool:
    """True when TRL's SyncRefModelCallback writes the reference now and then."""
    return any(hasattr(type(callback), "sync_target_model") for callback in trainer.callback_handler.callbacks)


def reference_syncs(trainer: Any, step: int) -> bool:
    """True when TRL's SyncRefModelCallback writes the reference at the end of ``step``."""
    if not syncs_reference(trainer):
        return False
    every = getattr(trainer.args, "ref_model_sync_steps", 1) or 1
    return bool(step % every == 0)


def refuse_reentrant_checkpointing(trainer: Any, models: Mapping[str, nn.Module]) -> None:
    """Reentrant checkpointing runs the first forward without gradients: it would pass for scoring.

    Raises:
        AdoptionError: with the setting that makes it work.
    """
    args = trainer.args
    options = getattr(args, "gradient_checkpointing_kwargs", None) or {}
    asked = getattr(args, "gradient_checkpointing", False) and options.get("use_reentrant", False)
    if asked or any(_checkpoints_reentrantly(module) for model in models.values() for module in model.modules()):
        raise AdoptionError(
            "reentrant gradient checkpointing hides the first forward of training from MX (it runs without "
            "gradients and would take the reward formats): pass gradient_checkpointing_kwargs={'use_reentrant': False}"
        )


def _checkpoints_reentrantly(module: nn.Module) -> bool:
    function = getattr(module, "_gradient_checkpointing_func", None)
    keywords = getattr(function, "keywords", {})
    return bool(getattr(module, "gradient_checkpointing", False) and keywords.get("use_reentrant", False))
