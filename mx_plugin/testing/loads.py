"""The lowest level, for every kind: what was made is a plugin of that kind, and says what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..hookspecs import INTERFACE_VERSION
from ..interface_version import version_mismatch
from .fault import Fault, demand


def demand_kind(made: object, cls: type) -> None:
    """Raise a Fault unless ``made`` is an instance of the interface ``cls``."""
    what = f"the class {made.__name__} itself" if isinstance(made, type) else f"a {type(made).__name__}"
    demand(isinstance(made, cls), f"make() returned {what}, not a mx_plugin.interfaces.{cls.__name__}", "subclass it")


def demand_version(made: object) -> None:
    """Raise a Fault for an interface version whose major is not ours."""
    why = version_mismatch(getattr(made, "interface_version", INTERFACE_VERSION))
    demand(not why, f"it would be refused: {why}")


def demand_name(made: Any) -> None:
    """Raise a Fault unless ``name`` is a word."""
    name = getattr(made, "name", None)
    said = isinstance(name, str) and name.strip() not in ("", "?")
    demand(said, f"its name is {name!r}", "set the class attribute name: tables and logs show it")


def demand_plain(data: object, what: str) -> None:
    """Raise a Fault unless ``data`` is a mapping of plain data, such as JSON holds."""
    if not isinstance(data, Mapping):
        raise Fault(f"{what} returned a {type(data).__name__}, not a mapping")
    try:
        json.dumps(dict(data), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Fault(
            f"{what} cannot be written as JSON: {error}", "convert to str, int, float, bool, None, list and dict"
        ) from None
