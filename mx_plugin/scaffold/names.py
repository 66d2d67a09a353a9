"""The names of a new plugin: what was asked for, and the distribution, module and class that follow from it."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ..errors import PluginError
from ..plugins import Registration, backends, boards, meters, providers

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?")
"""Names of projects, by PEP 508; without a dot, which options (``NAME.OPTION=VALUE``) have between name and option."""

_SUFFIX = "mx"


@dataclass(frozen=True)
class PluginNames:
    """``name``: what users choose by; the others are made from it: ``acme`` -> ``acme-mx``, ``acme_mx``, ``Acme``."""

    name: str
    distribution: str
    module: str
    cls: str

    @classmethod
    def of(cls, name: str) -> PluginNames:
        """The names that follow from ``name``.

        Raises:
            PluginError: it can be no project's name, or none of a Python module.
        """
        if not _NAME.fullmatch(name):
            raise PluginError(
                f"{name!r} can be no project's name: write letters, digits, and '-' or '_' between them, e.g. acme"
            )
        words = [word.lower() for word in re.split(r"[-_]+", name)]
        named = "".join(word.capitalize() for word in words)
        if words[-1] != _SUFFIX:
            words.append(_SUFFIX)
        module = "_".join(words)
        if not module.isidentifier() or keyword.iskeyword(module) or not named.isidentifier():
            raise PluginError(
                f"{name!r} makes no Python module ({module!r} is none): begin it with a letter, e.g. x{name}"
            )
        return cls(name, "-".join(words), module, named)


def check_free(kind: str, names: PluginNames) -> None:
    """Whether nothing that is installed has these names already.

    Raises:
        PluginError: a plugin of that kind, a built-in policy, a module or a distribution has.
    """
    from ..precision.load import builtin_names  # it imports torch

    registries = {"backend": backends, "board": boards, "meter": meters, "provider": providers}
    taken: Mapping[str, Registration] = registries[kind]()
    if names.name in taken:
        raise PluginError(
            f"the name {names.name!r} is taken by the {kind} of {taken[names.name].plugin}: choose another"
        )
    if kind == "provider" and names.name.casefold() in {policy.casefold() for policy in builtin_names()}:
        raise PluginError(f"a provider named {names.name!r} would hide the built-in policy: choose another name")
    try:
        found = version(names.distribution)
    except PackageNotFoundError:
        pass
    else:
        raise PluginError(
            f"{names.distribution} {found} is installed already: choose another name, or "
            f"pip uninstall {names.distribution}"
        )
    if find_spec(names.module) is not None:
        raise PluginError(f"a module {names.module!r} exists already, which would be hidden: choose another name")
