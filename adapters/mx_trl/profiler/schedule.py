"""Which steps of a run are profiled: wait, warm up, be active, and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ProfilerError

WAIT, WARM_UP, ACTIVE = "wait", "warm-up", "active"

_REMEDY = "give wait, warm-up, active and repeat in steps, e.g. 1 1 2 1"


@dataclass(frozen=True)
class Schedule:
    """Windows of training steps, counted from the step that this ``train()`` begins at.

    Args:
        wait: steps before each window in which only phases are timed.
        warmup: steps in which everything that measures runs, and what it measures is thrown away.
        active: steps that are profiled.
        repeat: how many windows; 0: until the run ends.

    Raises:
        ProfilerError: a negative number, or no active step.
    """

    wait: int = 1
    warmup: int = 1
    active: int = 2
    repeat: int = 1

    def __post_init__(self) -> None:
        for name, least in (("wait", 0), ("warmup", 0), ("active", 1), ("repeat", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ProfilerError(f"profiler schedule: {name} is {value!r}, must be {least} or more; {_REMEDY}")

    @classmethod
    def of(cls, numbers: Schedule | Sequence[int] | None) -> Schedule:
        """From up to four numbers in the order of the fields; None: the default.

        Raises:
            ProfilerError: more than four, or what the class itself refuses.
        """
        if numbers is None or isinstance(numbers, Schedule):
            return numbers or cls()
        if not 1 <= len(numbers) <= 4:
            raise ProfilerError(f"profiler schedule {list(numbers)} has {len(numbers)} numbers; {_REMEDY}")
        return cls(*numbers)

    @property
    def cycle(self) -> int:
        """Steps from the beginning of one window's wait to that of the next."""
        return self.wait + self.warmup + self.active

    def state(self, index: int) -> str:
        """What the run's step number ``index`` (0 is its first) is: ``wait``, ``warm-up`` or ``active``."""
        if self.repeat and index >= self.cycle * self.repeat:
            return WAIT
        place = index % self.cycle
        if place < self.wait:
            return WAIT
        return WARM_UP if place < self.wait + self.warmup else ACTIVE

    def opens(self, index: int) -> bool:
        """Whether a window's warm-up, or its first active step where it has none, is step ``index``."""
        return self.state(index) != WAIT and index % self.cycle == self.wait

    def closes(self, index: int) -> bool:
        """Whether a window ends before step ``index``."""
        return index > 0 and index % self.cycle == 0 and self.state(index - 1) == ACTIVE

    def check(self, steps: int) -> None:
        """Raises ProfilerError: a run of ``steps`` steps ends before the first active one."""
        before = self.wait + self.warmup
        if steps <= before:
            raise ProfilerError(
                f"profiler schedule: the first profiled step comes after {before} (wait {self.wait}, warm-up "
                f"{self.warmup}), but this run has {steps} steps: lower wait or warm-up, or train longer"
            )

    def __str__(self) -> str:
        return f"wait {self.wait}, warm-up {self.warmup}, active {self.active}, repeat {self.repeat}"
