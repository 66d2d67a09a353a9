"""The level ``trl`` of the conformance kit: a plugin executes, chooses or meters two tiny steps of a real TRL trainer.

``mx-plugin conformance NAME`` runs it after the core's levels. In tests, subclass :class:`TrlBackendConformance`,
:class:`TrlMeterConformance` or :class:`TrlProviderConformance`. Where TRL is not installed its checks are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import BACKEND_TRAINING
    from .classes import TrlBackendConformance, TrlMeterConformance, TrlProviderConformance
    from .meter import METER_TRAINING
    from .provider import PROVIDER_TRAINING

_HOMES = {
    "TrlBackendConformance": "classes",
    "TrlMeterConformance": "classes",
    "TrlProviderConformance": "classes",
    "BACKEND_TRAINING": "backend",
    "METER_TRAINING": "meter",
    "PROVIDER_TRAINING": "provider",
}

__all__ = [
    "TrlBackendConformance",
    "TrlMeterConformance",
    "TrlProviderConformance",
    "BACKEND_TRAINING",
    "METER_TRAINING",
    "PROVIDER_TRAINING",
]


def __getattr__(name: str) -> Any:
    """Names load on first use: the checks run where pytest is not installed."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{home}", __name__), name)
