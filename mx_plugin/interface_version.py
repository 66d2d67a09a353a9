"""Interface versions: which plugins are taken, what one for a newer minor is told, and what is deprecated."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from .hookspecs import INTERFACE_VERSION

T = TypeVar("T", bound=Callable[..., Any])


class MXDeprecationWarning(DeprecationWarning):
    """Something of the plugin interface will go; the message says since when, at which version, and what to use."""


def version_mismatch(declared: object) -> str:
    """Why a plugin with that declared interface version is refused; empty when it is not.

    Undeclared is accepted, and so is any minor version of our major: minors only add.
    """
    if declared is None:
        return ""
    ours = INTERFACE_VERSION
    match declared:
        case (int(major), int(minor)):
            if major == ours[0]:
                return ""
            remedy = "upgrade the plugin" if major < ours[0] else "upgrade mx-plugin, or install an older plugin"
            return f"written for interface {major}.{minor}, this mx-plugin has {ours[0]}.{ours[1]}: {remedy}"
    return f"its interface version is {declared!r}, not (major, minor): declare MX_PLUGIN_INTERFACE = {ours}"


def newer_minor(declared: object) -> str:
    """What the user of a plugin for a newer minor of our major should know; empty for any other.

    It is taken, because it may well use nothing that the newer minor added.
    """
    ours = INTERFACE_VERSION
    match declared:
        case (int(major), int(minor)) if major == ours[0] and minor > ours[1]:
            return (
                f"written for interface {major}.{minor}, this mx-plugin has {ours[0]}.{ours[1]}: what "
                f"{major}.{minor} added is not there; if the plugin misses it, upgrade mx-plugin"
            )
    return ""


# ---------------------------------------------------------------------------- deprecations


def deprecation(what: str, *, since: tuple[int, int], remove_in: int, instead: str) -> MXDeprecationWarning:
    """The warning that ``what`` goes: for a hook, ``@hookspec(warn_on_impl=deprecation(...))``.

    Args:
        since: the interface version (major, minor) that deprecated it.
        remove_in: the major that no longer has it.
        instead: what a plugin uses from now on, as an imperative.

    Raises:
        ValueError: ``remove_in`` is not a later major, or is reached: then the thing itself must go.
    """
    if remove_in <= since[0]:
        raise ValueError(
            f"{what}: deprecated since {since[0]}.{since[1]}, it can go in major {since[0] + 1} at the soonest"
        )
    if remove_in <= INTERFACE_VERSION[0]:
        raise ValueError(f"{what} was to go in interface {remove_in}.0, which this is: delete it")
    return MXDeprecationWarning(
        f"{what} is deprecated since interface {since[0]}.{since[1]} and goes in {remove_in}.0: {instead}"
    )


def deprecated(*, since: tuple[int, int], remove_in: int, instead: str) -> Callable[[T], T]:
    """Decorate a function or method of the interface that will go: it works, and each call warns its caller.

    Raises:
        ValueError: as :func:`deprecation`.
    """

    def decorate(function: T) -> T:
        warning = deprecation(function.__qualname__, since=since, remove_in=remove_in, instead=instead)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            warnings.warn(warning, stacklevel=2)
            return function(*args, **kwargs)

        wrapper.__deprecated__ = str(warning)  # type: ignore[attr-defined]  # the attribute of PEP 702
        return wrapper  # type: ignore[return-value]

    return decorate


def overridden_deprecated(made: object) -> list[str]:
    """What the class of ``made`` implements although an interface deprecated it: nobody would call it to warn."""
    found: list[str] = []
    for cls in type(made).__mro__:
        for name, member in vars(cls).items():
            message = getattr(member, "__deprecated__", None)
            if message and inspect.isfunction(member) and getattr(type(made), name) is not member:
                found.append(message)
    return found
