"""How well PPO's critic predicts: explained variance, advantages, returns - of numbers that TRL keeps to itself.

PPOTrainer computes advantages and returns within ``train()`` and logs neither. Observed are the critic's head, when it
scores without gradients, and ``masked_whiten``, which the loop calls with the raw advantages: returns are advantages
plus values. PPO's last TRL is 1.12, so its names stay; where one is missing nothing is measured, and the log says so.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

_WHITEN = "masked_whiten"

Tell = Callable[[Mapping[str, float]], None]


@contextmanager
def critic_metrics(trainer: Any, critic: nn.Module | None, tell: Tell) -> Iterator[None]:
    """While the block lasts, ``tell`` hears of every PPO step's critic: numbers by their keys in the trainer's log.

    Does nothing for a trainer without critic.
    """
    if critic is None:
        yield
        return
    module, head = _module_of(trainer), getattr(critic, "score", None)
    if module is None or not isinstance(head, nn.Module):
        log.warning("mx/ppo/ is not measured: %s is not TRL 1.12's PPOTrainer", type(trainer).__name__)
        yield
        return
    values: list[torch.Tensor] = []
    original = getattr(module, _WHITEN)

    def remember(_: nn.Module, __: Any, scores: torch.Tensor) -> None:
        if not torch.is_grad_enabled():
            values.append(scores.detach().squeeze(-1))

    @functools.wraps(original)
    def whiten(numbers: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        if shift_mean:  # with shift_mean=False TRL whitens rewards
            width = numbers.shape[1]
            found = torch.cat([part[:, -width - 1 : -1] for part in values]) if values else None
            values.clear()
            if found is not None and found.shape == numbers.shape:
                tell(summary(numbers, found, mask, trainer.accelerator))
        whitened: torch.Tensor = original(numbers, mask, shift_mean)
        return whitened

    hook = head.register_forward_hook(remember)
    setattr(module, _WHITEN, whiten)
    try:
        yield
    finally:
        hook.remove()
        setattr(module, _WHITEN, original)


def summary(
    advantages: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, accelerator: Any = None
) -> dict[str, float]:
    """Over the tokens of ``mask``, all (rows, tokens), and all processes of ``accelerator``.

    Explained variance is 1 - Var(return - value) / Var(return), with return = advantage + value; variances are those
    of the population. A number that is not defined is left out.
    """
    a, v = advantages[mask].double(), values[mask].double()
    r = a + v
    sums = torch.stack([torch.ones_like(a).sum(), a.sum(), (a * a).sum(), r.sum(), (r * r).sum(), v.sum()])
    if accelerator is not None:
        sums = accelerator.reduce(sums, "sum")
    count, a1, a2, r1, r2, v1 = sums.tolist()
    if not count:
        return {}
    a_variance, r_variance = (max(square / count - (first / count) ** 2, 0.0) for first, square in ((a1, a2), (r1, r2)))
    found = {
        "mx/ppo/advantage_mean": a1 / count,
        "mx/ppo/advantage_std": a_variance**0.5,
        "mx/ppo/return_mean": r1 / count,
        "mx/ppo/value_mean": v1 / count,
    }
    if r_variance > 1e-12 * max(
        r2 / count, 1e-300
    ):  # what rounding leaves of returns that are all alike is no variance
        found["mx/ppo/explained_variance"] = 1 - a_variance / r_variance
    return found


def _module_of(trainer: Any) -> ModuleType | None:
    """The module whose loop calls ``masked_whiten``."""
    for cls in type(trainer).__mro__:
        module = sys.modules.get(cls.__module__)
        if "train" in cls.__dict__ and hasattr(module, _WHITEN):
            return module
    return None
