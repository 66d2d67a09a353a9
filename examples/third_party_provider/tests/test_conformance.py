"""``kl-budget`` conforms to mx-plugin's interface, found by its name as a user finds it."""

from functools import partial

import pytest

from mx_plugin import get_provider
from mx_plugin.testing import ProviderConformance


class TestKLBudget(ProviderConformance):
    @pytest.fixture(params=[0, 1], ids=["all layers move", "one by one"])
    def make(self, request):
        return partial(get_provider, "kl-budget", max_kl=1.0, layers_per_move=request.param)
