"""What else has a state in a run: the MX session, and rewards that keep running statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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

    ``mx`` is the session of its MXCallback; ``reward.0``, ``reward.1``, ... what has ``state_dict`` and
    ``load_state_dict`` among its reward functions, their ``shaping``, and the ``rule`` or ``terms`` they are made of.
    The weights of a reward model are no such state: nobody trains it here.
    """
    parts: dict[str, Stateful] = {}
    callback = held_callback(trainer)
    if callback is not None and callback.session is not None:
        parts["mx"] = callback.session
    found = (part for reward in _rewards(trainer) for part in _states_in(reward))
    parts.update({f"reward.{number}": part for number, part in enumerate(found)})
    return parts


def _states_in(reward: Any) -> Iterator[Stateful]:
    if isinstance(reward, Stateful) and not isinstance(reward, nn.Module):
        yield reward
        return
    for owner in reward.modules() if isinstance(reward, nn.Module) else [reward]:
        inner = [getattr(owner, "shaping", None), getattr(owner, "rule", None)]
        inner += [rule for _, rule in getattr(owner, "terms", ())]
        for part in inner:
            if part is not None:
                yield from _states_in(part)


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
