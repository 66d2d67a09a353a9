"""The ranks that train together: what one knows, all know - or the run ends with an error that says who is missing."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from mx_plugin.errors import MXError

log = logging.getLogger(__name__)


class RanksError(MXError, RuntimeError):
    """A rank that did not join, that died, or that does something else than the others."""


class Ranks:
    """This process among those that train together. With one rank nothing is sent, and every answer is its own.

    ``index``, ``size``: rank and world size. ``hosts``: each rank's machine. Calls of :meth:`gather` and
    :meth:`agreed` are collective: every rank must make the same ones in the same order.
    """

    def __init__(self, index: int = 0, size: int = 1, group: Any = None) -> None:
        self.index, self.size = index, size
        self._group = group
        self.hosts: list[str] = [socket.gethostname()]
        if group is not None:
            self.hosts = self.gather("the beginning of train()", _machine())

    @property
    def main(self) -> bool:
        return self.index == 0

    @property
    def first_of_machine(self) -> bool:
        """Whether this rank reads the meters of its machine: the lowest one there does."""
        return self.hosts.index(self.hosts[self.index]) == self.index

    def gather(self, what: str, mine: Any) -> list[Any]:
        """Everyone's ``mine``, by rank. ``what`` names the occasion, and must be the same on all.

        Raises:
            RanksError: a rank is gone, does not answer in time, or is at another point of the run.
        """
        if self._group is None:
            return [mine]
        found: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(found, (what, mine), group=self._group)
        except RuntimeError as error:
            raise RanksError(
                f"rank {self.index} of {self.size}: another rank is gone, or did not come to {what} in time ({error}). "
                "What went wrong is in the first error among the ranks' output; the files hold every step before it"
            ) from error
        occasions = [occasion for occasion, _ in found]
        if set(occasions) != {what}:
            told = "; ".join(f"rank {rank}: {occasion}" for rank, occasion in enumerate(occasions))
            raise RanksError(
                f"the ranks are at different points of the run ({told}): callbacks, data or conditions differ between "
                "them; give all ranks the same script and arguments"
            )
        return [mine for _, mine in found]

    def agreed(self, what: str, mine: Any) -> Any:
        """What the main rank says.

        Raises:
            RanksError: as for :meth:`gather`.
        """
        return self.gather(what, mine if self.main else None)[0]

    def same(self, what: str, mine: Any, remedy: str) -> None:
        """Raises RanksError unless all ranks say the same of ``what``."""
        for rank, theirs in enumerate(self.gather(what, mine)):
            if theirs != mine:
                raise RanksError(
                    f"{what} differ between rank {self.index} ({_short(mine, theirs)}) and rank {rank} "
                    f"({_short(theirs, mine)}): {remedy}"
                )

    def describe(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return {"size": self.size, "machines": len(set(self.hosts)), "rank_of_seconds": 0}

    def close(self) -> None:
        """Leave the group; no rank is waited for."""
        group, self._group = self._group, None
        if group is not None and dist.is_initialized():
            dist.destroy_process_group(group)


def join_ranks(trainer: Any) -> Ranks:
    """The ranks of ``trainer``, once all have come here.

    Objects travel by gloo in a group of their own, whatever moves the gradients; the trainer's ``ddp_timeout`` limits
    every wait.

    Raises:
        RanksError: some do not come, or accelerate trains with fewer processes than were launched.
    """
    accelerator = getattr(trainer, "accelerator", None)
    if accelerator is None:  # a trainer of another kind, attached by hand
        size, index = _world(), dist.get_rank() if _world() > 1 else 0
    else:
        size, index = int(accelerator.num_processes), int(accelerator.process_index)
        _refuse_separate_worlds(size)
    if size == 1:
        return Ranks()
    seconds = float(getattr(trainer.args, "ddp_timeout", None) or 1800)
    group = _guarded(index, size, seconds, lambda: dist.new_group(backend="gloo", timeout=timedelta(seconds=seconds)))
    # Says who is missing, which no other collective does.
    _guarded(index, size, seconds, lambda: dist.monitored_barrier(group, timedelta(seconds=seconds), True))
    return Ranks(index, size, group)


def _guarded(index: int, size: int, seconds: float, join: Callable[[], Any]) -> Any:
    try:
        return join()
    except RuntimeError as error:
        raise RanksError(
            f"rank {index} of {size} began train(), but not all ranks did within {seconds:g} s (ddp_timeout): {error}"
        ) from error


def _refuse_separate_worlds(size: int) -> None:
    launched = int(os.environ.get("WORLD_SIZE") or 1)
    if max(launched, _world()) > size:
        raise RanksError(
            f"{max(launched, _world())} processes were launched, but accelerate trains with {size}: each would train a "
            "model of its own and write the same files. Launch with torchrun --nproc_per_node N"
        )


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _machine() -> str:
    """Of two containers with one name, the kernel's boot tells whether they share a machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return socket.gethostname()


def _short(value: Any, other: Any) -> str:
    if isinstance(value, dict) and isinstance(other, dict):
        keys = [key for key in {**value, **other} if value.get(key) != other.get(key)]
        return f"{keys[0]}: {_short(value.get(keys[0]), other.get(keys[0]))}" if keys else "..."
    return f"{value!s:.60}"
