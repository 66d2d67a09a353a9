"""Our own backends conform, level by level."""

from __future__ import annotations

from functools import partial

import pytest

from mx_plugin import get_backend
from mx_plugin.testing import BackendConformance
from mx_plugin.testing.check import Make


class TestReference(BackendConformance):
    @pytest.fixture
    def make(self) -> Make:
        return partial(get_backend, "reference")


class TestCpu(BackendConformance):
    @pytest.fixture
    def make(self) -> Make:
        return partial(get_backend, "cpu")


class TestNoise(BackendConformance):
    """A control: it declares an infinite bound, so that nothing is demanded of its values."""

    @pytest.fixture
    def make(self) -> Make:
        return partial(get_backend, "noise", seed=1)


class TestFpgaOnTheHost(BackendConformance):
    @pytest.fixture
    def make(self) -> Make:
        return partial(get_backend, "fpga", mode="emulate")


class TestFpgaOnAFakeBoard(BackendConformance):
    @pytest.fixture
    def make(self) -> Make:
        return partial(get_backend, "fpga", url="fake:")


class TestFpgaVerifying(BackendConformance):
    @pytest.fixture
    def make(self) -> Make:
        return partial(get_backend, "fpga", mode="verify", url="fake:", on_mismatch="fail")
