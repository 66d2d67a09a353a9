"""Level ``loads``: it is a backend and says what it is."""

from __future__ import annotations

from ...interfaces import Backend
from ..check import Level
from ..loads import demand_kind, demand_name, demand_plain, demand_version
from .trial import BackendTrial

LEVEL = Level("backend", "loads", "it is a backend and says what it is", BackendTrial)


@LEVEL.check
def is_a_backend(trial: BackendTrial) -> None:
    """make() returns a mx_plugin.interfaces.Backend."""
    demand_kind(trial.plugin, Backend)


@LEVEL.check
def interface_version(trial: BackendTrial) -> None:
    """It was written for our major interface version."""
    demand_version(trial.backend)


@LEVEL.check
def says_its_name(trial: BackendTrial) -> None:
    """It has a name."""
    demand_name(trial.backend)


@LEVEL.check
def describes_itself(trial: BackendTrial) -> None:
    """describe() is plain data, for config.json."""
    demand_plain(trial.backend.describe(), "describe()")
