"""What is searched over: for each (layer, phase, role) the formats it may take, their cost and their price."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...formats.spec import FP16
from ..entry import Entry, GradientEntry, ProductEntry
from ..max_cost import Scope
from ..policy import Rule
from .whole_numbers import exact_sum


@dataclass(frozen=True)
class Option:
    """A format that a layer may take: a pair such as ``MXFP4/MXFP8``, or ``FP16``.

    ``cost``: quality, in the unit of its phase and role; ``price``: what the objective counts.
    """

    format: str
    cost: float
    price: float


@dataclass(frozen=True)
class Group:
    """The options of one (layer, phase, role), of which exactly one is taken.

    ``forward_only``: costs speak about the forward product of ``gradient`` alone, and so does the policy.
    """

    layer: str
    phase: str
    role: str
    options: tuple[Option, ...]
    forward_only: bool = False

    @property
    def scope(self) -> Scope:
        return (self.phase, self.role)

    def rule(self, option: Option) -> Rule:
        """The policy's rule for that choice.

        Raises:
            PolicyError: lm_head outside rollout.
        """
        return Rule(self.layer, entry_of(option.format, self.forward_only), (self.phase,), (self.role,))


def entry_of(format: str, forward_only: bool) -> Entry:
    """What a policy writes for a pair (or FP16); ``forward_only`` leaves dgrad and wgrad unquantised."""
    if not forward_only or format == FP16:
        return format
    return GradientEntry(ProductEntry(format), ProductEntry(FP16), ProductEntry(FP16))


@dataclass(frozen=True)
class Assignment:
    """One option for each group of one scope: costs of different units are never added."""

    groups: tuple[Group, ...]
    options: tuple[Option, ...]

    @property
    def cost(self) -> float:
        """The predicted cost: the sum over layers."""
        return float(exact_sum(option.cost for option in self.options))

    @property
    def price(self) -> float:
        """The objective's sum."""
        return float(exact_sum(option.price for option in self.options))

    def formats(self) -> dict[str, int]:
        """How many layers take each format, most frequent first."""
        return counted(option.format for option in self.options)

    def rules(self) -> tuple[Rule, ...]:
        """A rule for every layer, FP16 too; short names first, since the last rule that matches wins."""
        pairs = sorted(zip(self.groups, self.options, strict=True), key=lambda pair: pair[0].layer.count("."))
        return tuple(group.rule(option) for group, option in pairs)


def counted(words: Iterable[str]) -> dict[str, int]:
    """How often each word comes, most frequent first."""
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def undominated(options: Sequence[Option]) -> tuple[Option, ...]:
    """Options that no other beats in both cost and price, by rising cost; of equals, FP16, then the first name."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.cost, o.price, o.format != FP16, o.format)):
        if not kept or option.price < kept[-1].price:
            kept.append(option)
    return tuple(kept)
