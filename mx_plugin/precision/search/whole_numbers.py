"""Costs and prices as whole numbers, so that sums are exact and ties are ties."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

DIGITS = 18
"""Totals stay below 10**18, so that int64 holds them."""

# Wide enough for any float64 times any power of ten used here.
_WIDE = Context(prec=800, Emax=10_000, Emin=-10_000)


class Scale:
    """Counts in units of 10**-digits: the fewest digits that write every value, or as many as the largest total allows.

    ``groups``: lists of values, of which one each will be added up.

    ``0.1 + 0.2 <= 0.3`` holds in these numbers, as a reader of the CSV expects: a float64 stands for the shortest
    decimal that it prints as.
    """

    def __init__(self, groups: Iterable[Sequence[float]]) -> None:
        listed = [list(values) for values in groups]
        total = exact_sum(max(values) for values in listed)
        needed = max(-int(_exact(value).normalize().as_tuple().exponent) for group in listed for value in group)
        self.digits = min(needed, DIGITS - 1 - total.adjusted()) if total else 0

    def up(self, value: float) -> int:
        """For costs: digits that do not fit round up, so that what is within a budget here is within it."""
        return self._scaled(value, ROUND_CEILING)

    def down(self, value: float) -> int:
        """For budgets."""
        return self._scaled(value, ROUND_FLOOR)

    def near(self, value: float) -> int:
        """For prices."""
        return self._scaled(value, ROUND_HALF_EVEN)

    def back(self, number: int) -> float:
        """The real number that a whole one stands for."""
        return float(Decimal(number).scaleb(-self.digits, _WIDE))

    def _scaled(self, value: float, rounding: str) -> int:
        return int(_exact(value).scaleb(self.digits, _WIDE).to_integral_value(rounding, _WIDE))


def _exact(value: float) -> Decimal:
    return Decimal(repr(float(value)))


def exact_sum(values: Iterable[float]) -> Decimal:
    """The sum of the decimals that the values print as."""
    total = Decimal(0)
    for value in values:
        total = _WIDE.add(total, _exact(value))
    return total
