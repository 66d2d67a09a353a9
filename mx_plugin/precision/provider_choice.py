"""Which provider a run's config names: a plugin's, or the one of a precision policy."""

from __future__ import annotations

from typing import Any

from ..config import MXConfig
from ..errors import PolicyError, nearest
from ..interfaces import Provider
from ..plugins import get_provider, providers
from .load import load_policy
from .provider import PolicyProvider


def make_provider(config: MXConfig) -> Provider:
    """The provider that ``config.policy`` names: a plugin's, or a precision policy's.

    Raises:
        PolicyError: no such policy; policy D without a matrix or ``max_cost``; ``policy_options`` of something that is
            no plugin's provider.
        PluginError: a plugin's provider does not take an option that was given.
    """
    options: dict[str, Any] = {"sensitivity_matrix": config.sensitivity_matrix, "max_cost": config.max_cost}
    named = config.options_by_provider()
    for name in named:  # others than this run's policy may be named: one file serves runs that are compared
        if name not in providers():
            raise PolicyError(
                f"policy_options names {name!r}, which is no plugin's provider: "
                f"{nearest(name, sorted(providers())) if providers() else 'none is installed'}"
            )
    if config.policy in providers():
        given = {name: value for name, value in options.items() if value is not None}
        provider: Provider = get_provider(config.policy, **{**given, **named.get(config.policy, {})})
        return provider
    return PolicyProvider(load_policy(config.policy, **options))
