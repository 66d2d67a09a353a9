"""A provider plugin gets the options that were given with its name: none is dropped in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mx_plugin import hookimpl, plugins
from mx_plugin.config import MXConfig
from mx_plugin.errors import PluginError, PolicyError
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


@pytest.mark.parametrize("options", [["acme.max_cost=0.5"], {"acme": {"max_cost": 0.5}}], ids=["words", "yaml"])
def test_options_of_its_own_reach_a_provider_typed(options: list[str]) -> None:
    provider = make_provider(MXConfig(policy="acme", policy_options=options))
    assert isinstance(provider, Budgeted) and provider.max_cost == 0.5


def test_options_for_a_provider_may_stand_in_a_file_that_serves_other_policies_too() -> None:
    assert isinstance(make_provider(MXConfig(policy="C8", policy_options=["acme.max_cost=0.5"])), PolicyProvider)


def test_options_of_what_is_no_provider_are_refused_with_the_nearest() -> None:
    with pytest.raises(
        PolicyError, match="policy_options names 'acmee', which is no plugin's provider: did you mean 'acme'"
    ):
        make_provider(MXConfig(policy="acme", policy_options=["acmee.max_cost=0.5"]))
