"""What mx_openrlhf registers with mx-plugin. Imports neither torch nor a framework."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mx_plugin.hookspecs import hookimpl

MX_PLUGIN_INTERFACE = (1, 0)


@hookimpl
def mx_register_checks(register: Callable[..., None]) -> None:
    """Whether OpenRLHF is installed, and one that the adapter follows."""
    register(openrlhf_checks)


def openrlhf_checks() -> list[Any]:
    """One check; a release that is not followed is a warning with its remedy."""
    from mx_plugin.check import Check

    from .errors import LaunchError
    from .versions import check_version

    remedy = "an environment of its own: make env_openrlhf (docs/distributed.md)"
    try:
        found = version("openrlhf")
    except PackageNotFoundError:
        return [Check("openrlhf", "warn", "not installed; the OpenRLHF adapter cannot run", remedy)]
    try:
        check_version(found)
    except LaunchError as error:
        return [Check("openrlhf", "warn", str(error), remedy)]
    return [Check("openrlhf", "ok", found)]
