"""Which phase the process is in.

Process-global on purpose: continuous batching generates in a worker thread and backward runs on
autograd's threads, so context variables and thread-locals would each see a different phase.
Explicit pushes (``rollout``) win; otherwise a layer that executes tells, by whether gradients are on:
``gradient`` or ``reward``. ``eval`` is an outer qualifier: ``eval/rollout``, ``eval/reward``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

OTHER = "other"
ROLLOUT = "rollout"
REWARD = "reward"
GRADIENT = "gradient"
EVAL = "eval/"

Listener = Callable[[str], None]


def inner(phase: str) -> str:
    """The phase without its ``eval/`` qualifier."""
    return phase.removeprefix(EVAL)


class PhaseTracker:
    """The stack of pushed phases, the phase in force, and who wants to know when it changes."""

    def __init__(self) -> None:
        self.phase = OTHER
        self.grad: bool | None = None
        """Grad mode that the phase in force was entered for; None makes the next layer call report."""
        self._stack: list[str] = []
        self._evaluating = 0
        self._listeners: list[Listener] = []

    @contextmanager
    def pushed(self, phase: str) -> Iterator[None]:
        """Force ``phase`` for the duration, whatever the grad mode."""
        self._stack.append(phase)
        try:
            self._settle()
            yield
        finally:
            self._stack.pop()
            self._settle()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Qualify every phase with ``eval/`` for the duration."""
        self._evaluating += 1
        try:
            self._settle()
            yield
        finally:
            self._evaluating -= 1
            self._settle()

    def subscribe(self, listener: Listener, *, first: bool = False) -> None:
        """Tell ``listener`` each phase that is entered, after those who subscribed before it.

        ``first``: before them, for one that takes the time: what the others do at the entry belongs to the new phase.
        """
        self._listeners.insert(0 if first else len(self._listeners), listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Stop telling ``listener``; the last one to leave puts the tracker back to rest."""
        self._listeners.remove(listener)
        if not self._listeners and not self._stack and not self._evaluating:
            self.phase, self.grad = OTHER, None

    def saw_forward(self, grad: bool) -> None:
        """A layer executes with gradients on or off: enter the phase that this implies."""
        if not self._stack:
            self._enter(GRADIENT if grad else REWARD)
        self.grad = grad

    def saw_backward(self) -> None:
        """Backward runs: the phase is ``gradient`` again, though a reference may have scored since the forward."""
        if self.grad is not True:
            self.saw_forward(True)

    def rest(self) -> None:
        """Whatever ran has ended, or its weights or formats changed: the next layer call enters anew."""
        if not self._stack:
            self._settle()

    @property
    def is_evaluating(self) -> bool:
        return self._evaluating > 0

    def _settle(self) -> None:
        self.grad = None
        self._enter(self._stack[-1] if self._stack else OTHER)

    def _enter(self, phase: str) -> None:
        if self._evaluating and phase != OTHER:
            phase = EVAL + phase
        if phase != self.phase:
            self.phase = phase
            for listener in self._listeners:
                listener(phase)


TRACKER = PhaseTracker()
"""The process's one tracker."""
