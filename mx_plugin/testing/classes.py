"""The classes that a plugin's tests subclass: the kit's checks as tests of pytest, which is imported here alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from .backend import BACKEND
from .check import ConformanceCheck, Make, Suite
from .fault import Fault, NotApplicable
from .meter import METER
from .provider import PROVIDER


class Conformance:
    """Subclass one of those below, call it ``Test...`` and give it the fixture ``make``.

    ``levels``: names of the levels to run, all if empty. ``options``: what the kind's checks may be told, such as a
    provider's ``layers``.
    """

    suites: ClassVar[tuple[Suite, ...]] = ()
    levels: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def make(self) -> Make:
        """A callable without arguments that returns a fresh plugin, opened and ready. The kit closes it."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a fixture 'make' that returns a callable, e.g. "
            "lambda: mx_plugin.get_backend('acme')"
        )

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for every check."""
        if "conformance_check" not in metafunc.fixturenames:
            return
        every = [check for suite in self.suites for check in suite.checks]
        unknown = set(self.levels) - {check.level for check in every}
        if unknown:
            raise ValueError(f"{type(self).__name__}.levels names {sorted(unknown)}, which are no levels of the kit")
        chosen = [check for check in every if not self.levels or check.level in self.levels]
        metafunc.parametrize("conformance_check", chosen, ids=[check.id for check in chosen])

    def test_conforms(self, conformance_check: ConformanceCheck, make: Make) -> None:
        __tracebackhide__ = True
        try:
            conformance_check.run(make, self.options)
        except NotApplicable as why:
            pytest.skip(f"does not apply: {why}")
        except Fault as fault:
            # The plugin's own traceback, where it raised one, tells more than that of the kit.
            if fault.__cause__ is not None:
                raise
            pytest.fail(str(fault), pytrace=False)


class BackendConformance(Conformance):
    """Every level of a backend but those that need a framework: for these see ``mx_trl.testing``."""

    suites = (BACKEND,)


class MeterConformance(Conformance):
    """Every level of an energy meter."""

    suites = (METER,)


class ProviderConformance(Conformance):
    """Every level of a precision provider."""

    suites = (PROVIDER,)
