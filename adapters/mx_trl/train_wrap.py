"""Hand MXCallback and observers their trainer: ``train`` of every ``transformers.Trainer`` subclass is wrapped.

Callbacks are not given their trainer, and on_train_end does not fire after an exception; wrapping
``train`` solves both without walking frames. The wrap is re-entrant (a subclass may call super) and
does nothing for a trainer that holds neither an MXCallback nor an observer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from transformers import Trainer

from mx_plugin.errors import AdoptionError

if TYPE_CHECKING:
    from .callback import MXCallback
    from .observer import Observer

_WRAPPED = "_mx_wrapped"
_TRAINING = "_mx_training"


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
        if _TRAINING in self.__dict__:
            return train(self, *args, **kwargs)
        callback, observers = held_callback(self), held_observers(self)
        if callback is not None and callback.session is not None:
            callback = None
        if callback is None and not observers:
            return train(self, *args, **kwargs)
        setattr(self, _TRAINING, True)
        try:
            with ExitStack() as stack:
                order_callbacks(self)
                if callback is not None:
                    stack.enter_context(callback.running(self))
                if observers:
                    stack.enter_context(_observed(self, observers, phases_known=callback is not None))
                return train(self, *args, **kwargs)
        finally:
            delattr(self, _TRAINING)

    setattr(wrapper, _WRAPPED, True)
    return wrapper


def held_observers(trainer: Any) -> list[Observer]:
    """The observers that ``trainer`` holds, in the order of its callbacks."""
    from .observer import Observer

    handler = getattr(trainer, "callback_handler", None)
    return [callback for callback in getattr(handler, "callbacks", []) if isinstance(callback, Observer)]


def order_callbacks(trainer: Any) -> None:
    """Reporting callbacks read ``logs`` in order: MXCallback, then observers, must have added their keys before them.

    Before those come the ones that take up a checkpoint: the run's files are opened at the step that they set.
    """
    from .callback import MXCallback
    from .observer import Observer

    def place(callback: Any) -> int:
        if getattr(callback, "restores_checkpoint", False):
            return 0
        return 1 if isinstance(callback, MXCallback) else 2 if isinstance(callback, Observer) else 3

    trainer.callback_handler.callbacks.sort(key=place)


def _observed(trainer: Any, observers: list[Observer], *, phases_known: bool) -> Any:
    from .observer import observed

    return observed(trainer, observers, phases_known=phases_known)


def wrap_instance(trainer: Any) -> None:
    """Wrap ``train`` of one object whose class is not a ``transformers.Trainer``."""
    if not hasattr(type(trainer).train, _WRAPPED):
        trainer.train = functools.partial(_wrapped(type(trainer).train), trainer)
