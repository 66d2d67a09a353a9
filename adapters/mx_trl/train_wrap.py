"""Hand an MXCallback its trainer: ``train`` of every ``transformers.Trainer`` subclass is wrapped.

Callbacks are not given their trainer, and on_train_end does not fire after an exception; wrapping
``train`` solves both without walking frames. The wrap is re-entrant (a subclass may call super) and
does nothing for a trainer that holds no MXCallback.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from mx_plugin.errors import AdoptionError

if TYPE_CHECKING:
    from .callback import MXCallback

_WRAPPED = "_mx_wrapped"


def held_callback(trainer: Any) -> MXCallback | None:
    """The one MXCallback that ``trainer`` holds, or None.

    Raises:
        AdoptionError: it holds two.
    """
    from .callback import MXCallback

    handler = getattr(trainer, "callback_handler", None)
    held = [callback for callback in getattr(handler, "callbacks", []) if isinstance(callback, MXCallback)]
    if len(held) > 1:
        policies = ", ".join(callback.config.policy for callback in held)
        raise AdoptionError(
            f"this trainer holds {len(held)} MXCallbacks (policies {policies}): a layer can follow only one; "
            "remove the others with trainer.remove_callback(...)"
        )
    return held[0] if held else None


def wrap_trainers() -> None:
    """Wrap ``train`` of ``Trainer`` and its loaded subclasses, and of those defined later."""
    for cls in _family(Trainer):
        _wrap(cls)
    if _WRAPPED not in Trainer.__dict__:
        setattr(Trainer, _WRAPPED, True)
        previous = Trainer.__init_subclass__

        def init_subclass(cls: type, **kwargs: Any) -> None:
            previous(**kwargs)
            _wrap(cls)

        Trainer.__init_subclass__ = classmethod(init_subclass)  # type: ignore[assignment]


def _family(cls: type) -> Iterator[type]:
    yield cls
    children: list[type] = cls.__subclasses__()
    for child in children:
        yield from _family(child)


def _wrap(cls: type[Any]) -> None:
    train = cls.__dict__.get("train")
    if train is None or hasattr(train, _WRAPPED):
        return
    cls.train = _wrapped(train)


def _wrapped(train: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(train)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        callback = held_callback(self)
        if callback is None or callback.session is not None:
            return train(self, *args, **kwargs)
        with callback.running(self):
            return train(self, *args, **kwargs)

    setattr(wrapper, _WRAPPED, True)
    return wrapper


def wrap_instance(trainer: Any) -> None:
    """Wrap ``train`` of one object whose class is not a ``transformers.Trainer``."""
    if not hasattr(type(trainer).train, _WRAPPED):
        trainer.train = functools.partial(_wrapped(type(trainer).train), trainer)
