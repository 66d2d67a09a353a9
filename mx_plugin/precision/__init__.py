"""Which formats each layer runs in: policies, the sensitivity matrix, and the provider that answers.

``PolicyProvider`` and ``AdaptiveController`` are loaded when first asked for: they stand on
``mx_plugin.interfaces``, which itself stands on the format records of this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .entry import GradientEntry, ProductEntry
from .formats import PHASES, ROLES, LayerFormats, Product
from .load import builtin_names, load_policy
from .matrix import Choice, MatrixRow, SensitivityMatrix
from .max_cost import MaxCost
from .policy import PhaseEntries, PrecisionPolicy, Rule

if TYPE_CHECKING:
    from .controller import AdaptiveController
    from .provider import PolicyProvider

__all__ = [
    "PHASES",
    "ROLES",
    "AdaptiveController",
    "Choice",
    "GradientEntry",
    "LayerFormats",
    "MatrixRow",
    "MaxCost",
    "PhaseEntries",
    "PolicyProvider",
    "PrecisionPolicy",
    "Product",
    "ProductEntry",
    "Rule",
    "SensitivityMatrix",
    "builtin_names",
    "load_policy",
]

_LATE = {"AdaptiveController": "controller", "PolicyProvider": "provider"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATE[name]}", __name__), name)
