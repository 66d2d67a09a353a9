"""mx-plugin: layer- and phase-adaptive OCP Microscaling (MX) precision for RLHF frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .hookspecs import hookimpl

if TYPE_CHECKING:
    from .config import MXConfig
    from .formats import MXTensor, fake_quantize, quantize
    from .plugins import get_backend, get_meter, get_provider
    from .precision import AdaptiveController, PrecisionPolicy, load_policy

_HOMES = {
    "MXConfig": "config",
    "MXTensor": "formats",
    "fake_quantize": "formats",
    "quantize": "formats",
    "get_backend": "plugins",
    "get_meter": "plugins",
    "get_provider": "plugins",
    "AdaptiveController": "precision",
    "PrecisionPolicy": "precision",
    "load_policy": "precision",
}

__all__ = [
    "AdaptiveController",
    "MXConfig",
    "MXTensor",
    "PrecisionPolicy",
    "__version__",
    "fake_quantize",
    "get_backend",
    "get_meter",
    "get_provider",
    "hookimpl",
    "load_policy",
    "quantize",
]


def __getattr__(name: str) -> Any:
    """Public names load on first use, so that registering a plugin imports no torch."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{home}", __name__), name)
