"""What the kit is made of: a check demands one thing of a plugin, a level gathers checks, a suite levels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .fault import Fault, NotApplicable
from .trial import Trial

Make = Callable[[], Any]
"""Returns a fresh plugin, opened and ready; the kit closes it."""


@dataclass(frozen=True)
class ConformanceCheck:
    """One demand on plugins of one ``kind``. ``demand``: in words, the first line of the function's docstring."""

    kind: str
    level: str
    name: str
    demand: str
    function: Callable[[Any], None] = field(repr=False)
    trial: type[Trial] = field(repr=False, default=Trial)

    @property
    def id(self) -> str:
        """``casts-saturation``: how pytest names it."""
        return f"{self.level}-{self.name}"

    def run(self, make: Make, options: Mapping[str, Any] | None = None) -> None:
        """Try it on what ``make()`` returns; everything that was made is closed again.

        Args:
            options: what the kind's trial takes beside ``make``, such as a provider's ``layers``.

        Raises:
            Fault: the plugin does not do it, or raised; the message names level and check.
            NotApplicable: nothing is demanded of this plugin, e.g. for what it declares.
        """
        with self.trial(make, **(options or {})) as trial:
            try:
                self.function(trial)
            except NotApplicable:
                raise
            except Fault as fault:
                raise fault.at(self.level, self.name) from fault.__cause__
            except Exception as error:
                text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise Fault(f"raised {text}").at(self.level, self.name) from error


@dataclass
class Level:
    """Checks that belong together; lower ones come first, since higher ones lean on them."""

    kind: str
    name: str
    summary: str
    trial: type[Trial]
    checks: list[ConformanceCheck] = field(default_factory=list)

    def check(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        """Decorator: ``function(trial)``, which raises :class:`Fault`, becomes a check of that name."""
        demand = (function.__doc__ or "").strip().partition("\n")[0]
        self.checks.append(ConformanceCheck(self.kind, self.name, function.__name__, demand, function, self.trial))
        return function


@dataclass(frozen=True)
class Suite:
    """Levels for one kind of plugin, lowest first.

    ``names()``: the plugins of that kind that are installed; ``open(name, **options)`` makes one. ``takes(name)``:
    whether it also opens a name that is not installed, such as a board's URL. Several suites may belong to one kind: an
    adapter adds a level to the core's.
    """

    kind: str
    levels: tuple[Level, ...]
    names: Callable[[], Iterable[str]]
    open: Callable[..., Any]
    takes: Callable[[str], bool] | None = None

    @property
    def checks(self) -> tuple[ConformanceCheck, ...]:
        return tuple(check for level in self.levels for check in level.checks)
