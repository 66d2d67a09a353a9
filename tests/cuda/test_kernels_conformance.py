"""The backend ``cuda`` conforms, level by level. The kit's operands lie on the CPU: so the interpreter runs it."""

from __future__ import annotations

import os
from functools import partial

import pytest

from mx_plugin import get_backend
from mx_plugin.testing import BackendConformance, ConformanceCheck
from mx_plugin.testing.check import Make
from mx_trl.testing import TrlBackendConformance

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="the kit's operands lie on the CPU")


class Interpreted:
    @pytest.fixture
    def make(self, conformance_check: ConformanceCheck) -> Make:
        if conformance_check.id == "repeats-threads":
            pytest.skip("does not apply: Triton's interpreter runs on one thread, its grid is a global")
        return partial(get_backend, "cuda")


class TestCuda(Interpreted, BackendConformance):
    levels = ("loads", "declares", "casts", "training_casts", "counts", "trains")


@pytest.mark.slow
class TestCudaForMinutes(Interpreted, BackendConformance):
    levels = ("multiplies", "repeats", "handles")


@pytest.mark.slow
class TestCudaTrains(Interpreted, TrlBackendConformance):
    """By TRL."""
