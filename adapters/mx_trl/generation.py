"""Where the phases that only TRL knows begin and end: generation, evaluation, backward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import GenerationMixin

from mx_plugin.execution.phases import ROLLOUT, TRACKER

AfterRollout = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]

_GENERATORS = ("generate", "generate_batch")
_EVALUATORS = ("evaluate", "predict", "generate_completions")


@contextmanager
def rollout_phase(policy: nn.Module, after: AfterRollout) -> Iterator[None]:
    """Push ``rollout`` while any part of ``policy`` generates.

    ``after(model, args, kwargs, output)`` is told of each generation that was not part of an
    evaluation, once the phase has been left. Generation inside another generation (assisted
    decoding, PEFT's delegation) counts once.
    """
    members = {id(module) for module in policy.modules()}
    depth = 0
    originals = {name: getattr(GenerationMixin, name) for name in _GENERATORS if hasattr(GenerationMixin, name)}
    own = {name for name in originals if name in GenerationMixin.__dict__}

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            if depth or id(self) not in members:
                return original(self, *args, **kwargs)
            depth += 1
            try:
                with TRACKER.pushed(ROLLOUT):
                    output = original(self, *args, **kwargs)
            finally:
                depth -= 1
            if not TRACKER.is_evaluating:
                after(self, args, kwargs, output)
            return output

        return wrapper

    for name, original in originals.items():
        setattr(GenerationMixin, name, wrapped(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            if name in own:
                setattr(GenerationMixin, name, original)
            else:
                delattr(GenerationMixin, name)


@contextmanager
def evaluation_phase(trainer: Any) -> Iterator[None]:
    """Qualify phases with ``eval/`` inside the trainer's evaluation methods."""
    shadowed = []
    for name in _EVALUATORS:
        method = getattr(trainer, name, None)
        if method is None or name in trainer.__dict__:
            continue
        trainer.__dict__[name] = _evaluating(method)
        shadowed.append(name)
    try:
        yield
    finally:
        for name in shadowed:
            trainer.__dict__.pop(name, None)


def _evaluating(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with TRACKER.evaluating():
            return method(*args, **kwargs)

    return wrapper


@contextmanager
def backward_phase(trainer: Any) -> Iterator[None]:
    """Enter ``gradient`` when the trainer's backward begins.

    DPO scores with its reference between forward and backward; the layers tell when backward reaches
    them, but the loss and a fused head come before.
    """
    accelerator = getattr(trainer, "accelerator", None)
    if accelerator is None or "backward" in accelerator.__dict__:
        yield
        return
    original = accelerator.backward

    @functools.wraps(original)
    def backward(*args: Any, **kwargs: Any) -> Any:
        TRACKER.saw_backward()
        return original(*args, **kwargs)

    accelerator.backward = backward
    try:
        yield
    finally:
        accelerator.__dict__.pop("backward", None)
