"""What else has a state in a run: the MX session, and rewards that keep running statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ..train_wrap import held_callback
from .errors import CheckpointError


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state is plain data, numbers and tensors."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


def stateful_parts(trainer: Any) -> dict[str, Stateful]:
    """Parts of ``trainer`` that its own checkpoints do not know, by name.

    ``mx`` is the session of its MXCallback. A reward has a state when it is no module but has ``state_dict`` and
    ``load_state_dict``, or when it has a ``shaping`` that does.
    """
    parts: dict[str, Stateful] = {}
    callback = held_callback(trainer)
    if callback is not None and callback.session is not None:
        parts["mx"] = callback.session
    for number, reward in enumerate(_rewards(trainer)):
        for part in (reward, getattr(reward, "shaping", None), getattr(reward, "reward", None)):
            if isinstance(part, Stateful) and not isinstance(part, nn.Module):
                parts[f"reward.{number}"] = part
                break
    return parts


def save_parts(trainer: Any) -> dict[str, Any]:
    """Their states, by name."""
    return {name: part.state_dict() for name, part in stateful_parts(trainer).items()}


def load_parts(trainer: Any, states: Mapping[str, Any]) -> None:
    """Give each part its state back.

    Raises:
        CheckpointError: the reward of the checkpoint had a state and that of this run has none, or the other way round.
    """
    parts = stateful_parts(trainer)
    differing = {name for name in {*parts, *states} if name != "mx" and (name in parts) != (name in states)}
    if differing:
        raise CheckpointError(
            f"the checkpoint was written with another reward: {', '.join(sorted(differing))} has a state in only one "
            "of the two; resume with the --reward that it was written with"
        )
    for name, part in parts.items():
        if name in states:
            part.load_state_dict(states[name])


def _rewards(trainer: Any) -> Iterable[Any]:
    rewards = getattr(trainer, "reward_funcs", None) or [getattr(trainer, "reward_model", None)]
    return rewards if isinstance(rewards, list | tuple) else [rewards]
