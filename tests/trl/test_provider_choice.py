"""A provider plugin gets the options that were given with its name: none is dropped in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mx_plugin import hookimpl, plugins
from mx_plugin.config import MXConfig
from mx_plugin.errors import PluginError
from mx_plugin.interfaces import Provider
from mx_plugin.precision import PolicyProvider, load_policy
from mx_plugin.precision.provider_choice import make_provider


class Budgeted(PolicyProvider):
    def __init__(self, max_cost: float | None = None) -> None:
        super().__init__(load_policy("C"))
        self.max_cost = max_cost


class Acme:
    @hookimpl
    def mx_register_providers(self, register: Callable[..., None]) -> None:
        register("acme", Budgeted)


@pytest.fixture(autouse=True)
def acme() -> Iterator[None]:
    plugins.register(Acme(), name="acme")
    yield
    plugins.reset()


def test_an_option_given_with_a_providers_name_reaches_it() -> None:
    provider: Provider = make_provider(MXConfig(policy="acme", max_cost=0.5))
    assert isinstance(provider, Budgeted) and provider.max_cost == 0.5


def test_an_option_that_a_provider_does_not_take_is_an_error() -> None:
    with pytest.raises(PluginError, match="sensitivity_matrix"):
        make_provider(MXConfig(policy="acme", sensitivity_matrix="m.csv"))


def test_without_options_the_provider_is_made_without_any() -> None:
    provider = make_provider(MXConfig(policy="acme"))
    assert isinstance(provider, Budgeted) and provider.max_cost is None
