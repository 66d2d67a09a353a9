"""Our own providers conform, level by level."""

from __future__ import annotations

import pytest

from mx_plugin import AdaptiveController, load_policy
from mx_plugin.precision import PolicyProvider
from mx_plugin.testing import ProviderConformance
from mx_plugin.testing.check import Make


class TestPolicies(ProviderConformance):
    @pytest.fixture(params=["A", "B", "C", "C8"])
    def make(self, request: pytest.FixtureRequest) -> Make:
        return lambda: PolicyProvider(load_policy(request.param))


class TestAdaptiveController(ProviderConformance):
    @pytest.fixture
    def make(self) -> Make:
        return lambda: AdaptiveController(policy="C").provider
