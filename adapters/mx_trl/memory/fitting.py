"""The largest batch that fits a limit: a search over the same closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import StageError
from .placement import place
from .planner import plan
from .request import GIB, Request
from .roles import RoleMemory, roles_of

_LARGEST = 2**20


@dataclass(frozen=True)
class Fit:
    """``batch`` is the most that ``knob`` may be; ``peak`` of the run then, in bytes."""

    knob: str
    batch: int
    peak: int
    limit: int


def largest_batch(request: Request, limit: int) -> Fit:
    """The largest ``per_device_train_batch_size`` that stays within ``limit`` bytes, everything else as asked.

    The peak never falls as the batch grows (``tests/memory`` holds that), so a bisection finds it.

    Raises:
        StageError: not even one sequence fits; says what one needs.
    """
    knob = "per_device_train_batch_size"
    roles = roles_of(request)
    step = _step(request)

    def at(batch: int) -> int:
        return _peak(replace(request, batch=batch), roles)

    if at(step) > limit:
        raise StageError(
            f"--limit {limit / GIB:.2f} GiB: not even {knob}={step} fits, which needs {at(step) / GIB:.2f} GiB "
            f"({request.stage} of {request.model} in {request.dtype}); see the suggestions without --limit"
        )
    found = _bisect(lambda count: at(count * step) <= limit) * step
    return Fit(knob, found, at(found), limit)


def _step(request: Request) -> int:
    """GRPO's batches hold whole groups; PPO's divide into mini-batches."""
    if request.stage == "grpo":
        return max(request.generations // request.accumulation, 1)
    return request.mini_batches if request.accumulation % request.mini_batches else 1


def _peak(request: Request, roles: dict[str, RoleMemory]) -> int:
    return max(device.peak for device in place(plan(request, roles), request.devices))


def _bisect(fits: Callable[[int], bool]) -> int:
    """The largest count up to a million that fits, given that 1 does."""
    low, high = 1, 2
    while high < _LARGEST and fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
