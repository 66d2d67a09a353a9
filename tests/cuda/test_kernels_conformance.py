"""The backend ``cuda`` conforms, level by level: the kit's operands lie on the CPU, so that this is the interpreter's."""

from __future__ import annotations

import os
from functools import partial

import pytest

from mx_plugin import get_backend
from mx_plugin.testing import BackendConformance
from mx_plugin.testing.check import Make

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="the kit's operands lie on the CPU")


class TestCuda(BackendConformance):
    @pytest.fixture
    def make(self) -> Make:
        return partial(get_backend, "cuda")
