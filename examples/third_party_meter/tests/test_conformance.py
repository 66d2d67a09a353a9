"""``smart-plug`` conforms to mx-plugin's interface, found by its name as a user finds it."""

from functools import partial

import pytest

from mx_plugin import get_meter
from mx_plugin.testing import MeterConformance


class TestSmartPlug(MeterConformance):
    @pytest.fixture
    def make(self, plug):
        return partial(get_meter, "smart-plug", url=plug.url, poll_s=0.02)


class TestAbsentPlug(MeterConformance):
    """Nobody answers: it still conforms, by saying None and why."""

    @pytest.fixture
    def make(self):
        return partial(get_meter, "smart-plug", url="http://127.0.0.1:9/", timeout_s=0.2)
