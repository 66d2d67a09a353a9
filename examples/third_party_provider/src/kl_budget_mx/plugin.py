"""What kl-budget-mx registers with mx-plugin. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mx_plugin.hookspecs import RegisterFactory, hookimpl

if TYPE_CHECKING:
    from mx_plugin.interfaces import Provider

MX_PLUGIN_INTERFACE = (1, 0)


@hookimpl
def mx_register_providers(register: RegisterFactory) -> None:
    """``kl-budget``: chosen by ``--policy kl-budget``."""
    register("kl-budget", _make, summary="a policy whose rollouts widen while KL or mismatch is over a budget")


def _make(**options: Any) -> Provider:
    from .provider import KLBudget

    return KLBudget(**options)
