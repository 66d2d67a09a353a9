"""The level ``trl`` as tests of pytest: subclass one, call it ``Test...`` and give it the fixture ``make``."""

from __future__ import annotations

from mx_plugin.testing import Conformance

from .backend import BACKEND_TRAINING
from .meter import METER_TRAINING
from .provider import PROVIDER_TRAINING


class TrlBackendConformance(Conformance):
    """Two steps of TRL's GRPO on a backend."""

    suites = (BACKEND_TRAINING,)


class TrlMeterConformance(Conformance):
    """Two steps of TRL's GRPO, read by an energy meter."""

    suites = (METER_TRAINING,)


class TrlProviderConformance(Conformance):
    """Two steps of TRL's GRPO in the formats of a precision provider."""

    suites = (PROVIDER_TRAINING,)
