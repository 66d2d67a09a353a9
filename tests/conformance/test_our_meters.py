"""Our own meters conform, level by level."""

from __future__ import annotations

from functools import partial

import pytest

from mx_plugin import get_meter
from mx_plugin.testing import MeterConformance
from mx_plugin.testing.check import Make


class TestModelled(MeterConformance):
    @pytest.fixture(params=["as-executed", "projected:mx-asic-45nm"])
    def make(self, request: pytest.FixtureRequest) -> Make:
        return partial(get_meter, "modelled", target=request.param)


class TestZeus(MeterConformance):
    @pytest.fixture
    def make(self) -> Make:
        return partial(get_meter, "zeus")


class TestFpgaWithoutABoard(MeterConformance):
    @pytest.fixture
    def make(self) -> Make:
        return partial(get_meter, "fpga")
