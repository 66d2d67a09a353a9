"""Every plugin that is broken on purpose fails first at the check that names its fault, and every check has one."""

from __future__ import annotations

import pytest

from tests.conformance.broken.collection import Broken
from tests.conformance.mutation import SUITES, failing

CASES = [
    pytest.param(kind, broken, id=f"{kind}-{broken.name}") for kind, held in SUITES.items() for broken in held.plugins
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "broken"), CASES)
def test_it_is_caught_at_the_level_that_names_its_fault(kind: str, broken: Broken) -> None:
    found = failing(SUITES[kind].checks, broken)
    assert found[:1] == [broken.caught_by]
    assert len(found) == 1 or not broken.alone, f"also caught by {found[1:]}"


@pytest.mark.parametrize("kind", SUITES)
def test_every_check_alone_catches_a_broken_plugin(kind: str) -> None:
    held = SUITES[kind]
    alone = {broken.caught_by for broken in held.plugins if broken.alone}
    assert [check.id for check in held.suite.checks if check.id not in alone] == []
