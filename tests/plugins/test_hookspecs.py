"""The hooks themselves: each is documented, and each is one that the core really asks."""

from __future__ import annotations

import inspect

import pytest

from mx_plugin import hookspecs, interfaces, plugins
from mx_plugin.plugin_host import HOOKS


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_says_what_to_register_and_how(hook: str) -> None:
    text = inspect.getdoc(getattr(hookspecs, hook)) or ""
    assert text.startswith("Register ")
    assert "``register(" in text


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_its_registry(hook: str) -> None:
    assert callable(getattr(plugins, hook.removeprefix("mx_register_")))


def test_the_three_interfaces_are_documented_method_by_method() -> None:
    undocumented = [
        f"{cls.__name__}.{name}"
        for cls in (interfaces.Provider, interfaces.Backend, interfaces.Meter)
        for name, member in vars(cls).items()
        if inspect.isfunction(member) and not name.startswith("_") and not inspect.getdoc(member)
    ]
    assert undocumented == []


def test_hooks_and_interfaces_have_one_version() -> None:
    assert interfaces.INTERFACE_VERSION is hookspecs.INTERFACE_VERSION
