"""Other assignments of the same formats: equal bytes, and what is sensitive gets what is narrow."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mx_plugin.experiments.assignment import TOLERANCE, Slots, inverted_assignment, random_assignment
from mx_plugin.experiments.errors import ExperimentError

WIDTHS = (4.25, 6.25, 8.25)


def slots(layers: int, seed: int) -> Slots:
    """A trunk as models have them: four square layers, two wide, one tall, again and again."""
    rng = random.Random(seed)
    sizes = [288 * 288] * 4 + [288 * 768] * 3
    elements = [sizes[i % 7] for i in range(layers)]
    bytes_of = [[int(n * width / 8) for width in WIDTHS] for n in elements]
    return Slots(bytes_of, [rng.randrange(3) for _ in range(layers)])


@pytest.mark.parametrize("layers", [14, 42, 210])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_assignment_deals_the_same_formats_at_equal_bytes(layers: int, seed: int) -> None:
    given = slots(layers, seed)
    found = random_assignment(given, seed)
    assert Counter(found) == Counter(given.now)
    assert abs(given.total(found) - given.target) <= TOLERANCE * given.target
    assert found != list(given.now)


def test_a_seed_deals_the_same_again_and_another_seed_otherwise() -> None:
    given = slots(42, 1)
    assert random_assignment(given, 5) == random_assignment(given, 5)
    assert random_assignment(given, 5) != random_assignment(given, 6)


def test_layers_of_one_kind_exchange_their_formats_exactly() -> None:
    given = Slots([[10, 1000], [10, 1000], [7, 7]], [0, 1, 0])
    found = random_assignment(given, 1, tolerance=0.0)
    assert given.total(found) == given.target
    assert found[:2] == [1, 0]


def test_formats_that_fit_no_other_way_are_refused() -> None:
    with pytest.raises(ExperimentError, match="no other assignment"):
        random_assignment(Slots([[1, 100], [1000, 5000]], [1, 0]), 1)


@pytest.mark.parametrize("layers", [42, 210])
def test_inverted_formats_are_narrow_where_layers_are_sensitive_at_equal_bytes(layers: int) -> None:
    given = slots(layers, 4)
    sensitivity = [WIDTHS[fmt] for fmt in given.now]
    found = inverted_assignment(given, sensitivity)
    assert abs(given.total(found) - given.target) <= TOLERANCE * given.target
    protected = [WIDTHS[found[i]] for i in range(layers) if given.now[i] == 2]
    cheap = [WIDTHS[found[i]] for i in range(layers) if given.now[i] == 0]
    assert sum(protected) / len(protected) < 5 < 7 < sum(cheap) / len(cheap)
