"""PPO's prompts: stop between two steps, and go on in the middle of an epoch with the very batches that were due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from .random_state import random_state, set_random_state


class TrainingStopped(Exception):
    """Training ends here, on purpose, between two steps."""


class Batches:
    """A data loader that remembers in what random state its epoch began, and ends training when it is asked to.

    PPOTrainer shuffles by torch's global generator when an epoch begins. To go on after batch n of an epoch, that state
    is taken up again, n batches are drawn and thrown away, and then the generators are set to where training stood.

    Args:
        loader: the trainer's own.
        stop: asked before every batch; True raises :class:`TrainingStopped`.
    """

    def __init__(self, loader: Any, stop: Callable[[], bool]) -> None:
        self.loader = loader
        self._stop = stop
        self._began: dict[str, Any] | None = None
        self._drawn = 0
        self._resume: tuple[int, Mapping[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches: Iterator[Any] | None = None
        while True:
            if self._stop():
                raise TrainingStopped
            if batches is None:
                batches = self._resumed(*self._resume) if self._resume is not None else self._fresh()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._drawn += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands: batches drawn, and the random state in which it began (None: a new one is due)."""
        over = self._drawn >= len(self.loader)
        return {"drawn": 0 if over else self._drawn, "began": None if over else self._began}

    def resume(self, state: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Go on from ``state``; the random state is ``now`` when the first batch is handed over."""
        if not state["drawn"]:
            set_random_state(now)
            return
        self._began = dict(state["began"])
        self._resume = int(state["drawn"]), now

    def _fresh(self) -> Iterator[Any]:
        generator = self._own_generator()
        self._began = random_state() | ({"sampler": generator.get_state()} if generator is not None else {})
        self._drawn = 0
        return iter(self.loader)

    def _resumed(self, drawn: int, now: Mapping[str, Any]) -> Iterator[Any]:
        self._resume = None
        assert self._began is not None
        set_random_state(self._began)
        generator = self._own_generator()
        if generator is not None and "sampler" in self._began:
            generator.set_state(self._began["sampler"])
        batches = iter(self.loader)
        for _ in range(drawn):
            next(batches)
        self._drawn = drawn
        set_random_state(now)
        return batches

    def _own_generator(self) -> torch.Generator | None:
        sampler = getattr(getattr(self.loader, "batch_sampler", None), "sampler", None)
        generator: torch.Generator | None = getattr(sampler, "generator", None)
        return generator
