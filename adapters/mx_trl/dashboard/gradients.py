"""How large gradients are, role by role, before they are clipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ..shadow import shadowed
from .drift import held_here


class GradientNorms:
    """The largest norm of each role's gradients since they were last asked for, over the optimiser's steps.

    Read when the optimiser steps, from what lies in ``.grad`` then. Trainers that clip have scaled it by min(1, c / (n
    + 1e-6)) (``torch.nn.utils.clip_grad_norm_``), with n the norm that clipping returned: that factor is taken out
    again. A rank sees the gradients that it holds.
    """

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self._parameters: dict[str, list[nn.Parameter]] = {}
        seen: set[int] = set()
        for role, model in models.items():
            mine = [p for p in model.parameters() if p.requires_grad and id(p) not in seen]
            seen.update(map(id, mine))
            if mine:
                self._parameters[role] = mine
        self._known = seen
        self._largest: dict[str, float] = {}
        self._factor: torch.Tensor | float = 1.0

    @contextmanager
    def watching(self, trainer: Any) -> Iterator[None]:
        """While the block lasts, every step of an optimiser that holds these parameters is seen."""
        accelerator: Any = getattr(trainer, "accelerator", None)
        clip: Any = getattr(accelerator, "clip_grad_norm_", None)

        def clip_and_remember(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            norm = clip(parameters, max_norm, *args, **kwargs)
            self._factor = clip_factor(norm, max_norm)
            return norm

        handle = register_optimizer_step_pre_hook(self._stepping)
        try:
            with nullcontext() if clip is None else shadowed(accelerator, {"clip_grad_norm_": clip_and_remember}):
                yield
        finally:
            handle.remove()

    def take(self) -> dict[str, float]:
        """``{role: norm}``: the largest since the last call; a role without gradients is not there."""
        found, self._largest = self._largest, {}
        return found

    def _stepping(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if not any(id(p) in self._known for group in optimizer.param_groups for p in group["params"][:1]):
            return
        factor, self._factor = float(self._factor), 1.0
        for role, parameters in self._parameters.items():
            gradients = [held_here(p.grad) for p in parameters if p.grad is not None]
            if gradients:
                norm = float(total_norm(gradients)) / factor if factor else float("nan")
                before = self._largest.get(role)
                # NaN is larger than anything: it must not be lost between two records.
                self._largest[role] = norm if before is None or not norm <= before else before


def total_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The 2-norm of all of them as one vector, in float32."""
    norms = torch._foreach_norm([g.coalesce().values() if g.is_sparse else g for g in gradients], 2, torch.float32)
    return torch.stack([norm.to(norms[0].device) for norm in norms]).norm()


def clip_factor(norm: Any, max_norm: float) -> torch.Tensor | float:
    """What clipping multiplied gradients by, given the norm that it returned; 1 where that is not known."""
    if not isinstance(norm, torch.Tensor | float | int) or not max_norm > 0:
        return 1.0
    return min(1.0, float(max_norm) / (float(norm) + 1e-6)) if float(norm) == float(norm) else 1.0
