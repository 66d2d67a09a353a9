"""Our own plugins conform at the level ``trl``: TRL trains with each of them by its name."""

from __future__ import annotations

from functools import partial

import pytest

from mx_plugin import AdaptiveController, get_backend, get_meter, load_policy
from mx_plugin.precision import PolicyProvider
from mx_plugin.testing.check import Make
from mx_trl.testing import TrlBackendConformance, TrlMeterConformance, TrlProviderConformance

pytestmark = pytest.mark.trl(">=1.12")


class TestBackends(TrlBackendConformance):
    @pytest.fixture(params=["reference", "cpu", "fpga on the host", "noise"])
    def make(self, request: pytest.FixtureRequest) -> Make:
        options = {"fpga": {"mode": "emulate"}, "noise": {"seed": 1}}
        name = request.param.split()[0]
        return partial(get_backend, name, **options.get(name, {}))


class TestModelled(TrlMeterConformance):
    @pytest.fixture
    def make(self) -> Make:
        return partial(get_meter, "modelled")


class TestPolicies(TrlProviderConformance):
    @pytest.fixture(params=["A", "C", "C8"])
    def make(self, request: pytest.FixtureRequest) -> Make:
        return lambda: PolicyProvider(load_policy(request.param))


class TestAdaptiveController(TrlProviderConformance):
    @pytest.fixture
    def make(self) -> Make:
        return lambda: AdaptiveController(policy="C").provider
