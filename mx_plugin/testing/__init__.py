"""The conformance kit: what a backend, a meter or a precision provider must do, as checks that anyone can run.

Subclass :class:`BackendConformance`, :class:`MeterConformance` or :class:`ProviderConformance` in your tests, or run
``mx-plugin conformance NAME``. Boards have their class in ``mx_fpga.testing``; the level that trains by TRL is in
``mx_trl.testing``. Only the three classes need pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import BACKEND
    from .check import ConformanceCheck, Level, Suite
    from .classes import BackendConformance, Conformance, MeterConformance, ProviderConformance
    from .fault import Fault, NotApplicable, demand, demand_near, demand_same
    from .meter import METER
    from .provider import PROVIDER
    from .run import Outcome, conforms, run_checks
    from .trial import Trial

_HOMES = {
    "BackendConformance": "classes",
    "MeterConformance": "classes",
    "ProviderConformance": "classes",
    "Conformance": "classes",
    "BACKEND": "backend",
    "METER": "meter",
    "PROVIDER": "provider",
    "Suite": "check",
    "Level": "check",
    "ConformanceCheck": "check",
    "Trial": "trial",
    "Fault": "fault",
    "NotApplicable": "fault",
    "demand": "fault",
    "demand_same": "fault",
    "demand_near": "fault",
    "Outcome": "run",
    "run_checks": "run",
    "conforms": "run",
}

__all__ = [
    "BackendConformance",
    "MeterConformance",
    "ProviderConformance",
    "Conformance",
    "BACKEND",
    "METER",
    "PROVIDER",
    "Suite",
    "Level",
    "ConformanceCheck",
    "Trial",
    "Fault",
    "NotApplicable",
    "demand",
    "demand_same",
    "demand_near",
    "Outcome",
    "run_checks",
    "conforms",
]


def __getattr__(name: str) -> Any:
    """Names load on first use: the checks run where pytest is not installed."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{home}", __name__), name)
