"""``bf16`` conforms to mx-plugin's interface, found by its name as a user finds it."""

from functools import partial

import pytest

from mx_plugin import get_backend
from mx_plugin.testing import BackendConformance


class TestBfloat16(BackendConformance):
    @pytest.fixture(params=["bfloat16", "float32"])
    def make(self, request):
        return partial(get_backend, "bf16", keep=request.param)
